"""Caption files in memory: reading JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perception.errors import DataError


def read_json(path: Path, required: Sequence[str] = ()) -> Any:
    """Content of a JSON file; with ``required``, an object that has these keys.

    Raises:
        DataError: the file is missing, is no JSON, or lacks a key.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"file {str(path)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise DataError(f"file {str(path)!r} is no JSON: {error}") from error
    if required:
        absent = [key for key in required if not isinstance(content, dict) or key not in content]
        if absent:
            there = sorted(content)[:10] if isinstance(content, dict) else f"a {type(content).__name__}"
            raise DataError(f"file {str(path)!r} lacks {absent}; it holds {there}")
    return content

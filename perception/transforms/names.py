"""Names taken out of texts, so that no model learns who spoke to whom."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from perception.errors import DataError


def remove_names(texts: Sequence[str], names: Sequence[str], instead: str = "") -> list[str]:
    """Texts without the ``names``: whole words, whatever their case, with a possessive 's; blanks are closed up.

    Args:
        texts: any number of texts.
        names: one or several words each, such as ``Anna`` or ``Dr. Smith``; longer ones go first.
        instead: what takes their place, such as ``[name]``.

    Raises:
        DataError: a name is empty.
    """
    if any(not name.strip() for name in names):
        raise DataError("a name to remove is empty")
    if not names:
        return list(texts)
    folded = sorted({unicodedata.normalize("NFC", name.strip()) for name in names}, key=len, reverse=True)
    words = "|".join(r"\s+".join(map(re.escape, name.split())) for name in folded)
    pattern = re.compile(rf"(?<!\w)(?:{words})(?:['’]s)?(?!\w)", re.IGNORECASE)
    found = []
    for text in texts:
        without = pattern.sub(lambda _: instead, unicodedata.normalize("NFC", text))
        changed = without != unicodedata.normalize("NFC", text)
        found.append(re.sub(r"\s+([,.;:!?])", r"\1", " ".join(without.split())) if changed else text)
    return found

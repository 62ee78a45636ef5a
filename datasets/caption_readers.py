"""Readers of the caption files that remote-sensing corpora are published in. Which one is told by the file itself.

| layout | what it looks like | published for |
| --- | --- | --- |
| Karpathy | ``{"images": [{filename, split, sentences: [{raw}], filepath?}]}`` | RSICD, RSITMD, UCM, Sydney |
| NWPU | ``{category: [{filename, split, raw, raw_1, ... raw_4}]}`` | NWPU-Captions |
| records | a list, or one a line, of ``{filename, captions, split?, label?}`` | VT-RSBS, multilingual sets |
| precomputed | a folder of ``<split>_caps.txt`` and ``<split>_filename.txt``, line by line | AMFMN |
| descriptions | a folder of ``descriptions_X.txt`` ("12 A text") and ``filenames_<split>.txt`` | UCM, Sydney |
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from perception.datasets.caption_records import Record, first_names, read_json
from perception.errors import DataError
from perception.transforms.captions import Caption

LAYOUTS = (
    "Karpathy's JSON, NWPU's JSON, a list of records (.json or .jsonl), or a folder of AMFMN's or UCM's text files"
)


def read_captions(path: str | Path, language: str = "en") -> list[Record]:
    """All records of a caption file or folder, in its order.

    Args:
        path: see the table of this module.
        language: of texts that the file does not say the language of.

    Raises:
        DataError: no such file, no layout that is known, or an entry that lacks what it must have.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if any(path.glob("*_caps*.txt")):
            return _precomputed(path, language)
        if any(path.glob("descriptions_*.txt")):
            return _descriptions(path, language)
        raise DataError(f"folder {str(path)!r} holds neither *_caps.txt nor descriptions_*.txt")
    if path.suffix == ".jsonl":
        return _records(_lines_of_json(path), path, language)
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        return _records(content["images"], path, language)
    if isinstance(content, dict) and content and all(isinstance(entries, list) for entries in content.values()):
        return _nwpu(content, path, language)
    if isinstance(content, list):
        return _records(content, path, language)
    raise DataError(f"{str(path)!r} is no caption file that is known: {LAYOUTS}")


def translate(records: list[Record], path: str | Path, language: str | None = None) -> list[Record]:
    """Add the texts of a second file to the records of the same images.

    Args:
        records: of the first file, all splits.
        path: a sidecar ``{filename: {language: [texts]}}``, or with ``language`` any caption file.
        language: of that caption file.

    Raises:
        DataError: a file name that the first file has not.
    """
    path = Path(path).expanduser()
    if language is not None:
        added = {record.filename: record.captions for record in read_captions(path, language)}
    else:
        added = _sidecar(read_json(path), path)
    known = {record.filename for record in records}
    by_base: dict[str, str] = {}
    bases = Counter(Path(name).name for name in known)
    for name in known:
        if bases[Path(name).name] == 1:  # else the bare name could be any of several
            by_base[Path(name).name] = name
    unknown = [name for name in added if name not in known and name not in by_base]
    if unknown:
        raise DataError(f"{str(path)!r} translates {len(unknown)} images that are unknown: {first_names(unknown)}")
    full = {name if name in known else by_base[name]: captions for name, captions in added.items()}
    return [replace(r, captions=[*r.captions, *full[r.filename]]) if r.filename in full else r for r in records]


def _lines_of_json(path: Path) -> list[Any]:
    entries = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"file {str(path)!r} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                entries.append(json.loads(line))
            except ValueError as error:
                raise DataError(f"line {number} of {str(path)!r} is no JSON: {error}") from error
    return entries


def _records(entries: Iterable[Any], path: Path, language: str) -> list[Record]:
    """Karpathy's entries (``sentences``) and ours (``captions``)."""
    found = []
    for position, entry in enumerate(entries):
        name = _get(entry, ("filename", "image"), position, path)
        texts = _get(entry, ("captions", "sentences"), position, path)
        if not isinstance(texts, list):
            raise DataError(f"entry {position} ({name!r}) of {str(path)!r}: its captions are no list")
        captions = [_caption(text, language, name, path) for text in texts]
        filename = f"{entry['filepath']}/{name}" if entry.get("filepath") else str(name)
        label = entry.get("label", entry.get("class_name"))
        found.append(Record(filename, captions, str(entry.get("split", "")), label))
    return found


def _caption(text: Any, language: str, name: Any, path: Path) -> Caption:
    """A plain text, ``{"raw": text}``, or a (language, text) pair. What is no text is left to the ``Cleaner``."""
    if isinstance(text, dict):
        if "raw" not in text:
            raise DataError(f"{str(path)!r}: a sentence of {name!r} has no 'raw', only {sorted(text)}")
        return language, text["raw"]
    if isinstance(text, (list, tuple)):
        if len(text) != 2 or not isinstance(text[0], str):
            raise DataError(f"{str(path)!r}: a caption of {name!r} is {text!r}, not (language, text)")
        return text[0], text[1]
    return language, text


def _get(entry: Any, keys: tuple[str, ...], position: int, path: Path) -> Any:
    for key in keys:
        if isinstance(entry, dict) and key in entry:
            return entry[key]
    there = sorted(entry) if isinstance(entry, dict) else entry
    raise DataError(f"entry {position} of {str(path)!r} has none of {list(keys)}: {there}")


def _nwpu(content: dict[str, list[Any]], path: Path, language: str) -> list[Record]:
    found = []
    for category, entries in content.items():
        for position, entry in enumerate(entries):
            name = _get(entry, ("filename",), position, path)
            keys = [key for key in entry if re.fullmatch(r"raw(_\d+)?", key)]
            if not keys:
                raise DataError(f"entry {position} ({name!r}) of {category!r} in {str(path)!r} has no 'raw'")
            captions = [(language, entry[key]) for key in keys]
            found.append(Record(f"{category}/{name}", captions, str(entry.get("split", "")), category))
    return found


def _precomputed(folder: Path, language: str) -> list[Record]:
    found = []
    for texts_file in sorted(folder.glob("*_caps*.txt")):
        split = texts_file.stem.replace("_caps", "")  # train_caps_verify.txt: train_verify
        names_file = texts_file.with_name(texts_file.name.replace("_caps", "_filename"))
        texts, names = _lines(texts_file), _lines(names_file)
        if len(texts) != len(names):
            raise DataError(f"{str(texts_file)!r} has {len(texts)} lines, {str(names_file)!r} has {len(names)}")
        by_name: dict[str, list[Caption]] = {}
        for name, text in zip(names, texts, strict=True):
            by_name.setdefault(name.strip(), []).append((language, text))
        found += [Record(name, captions, split) for name, captions in by_name.items()]
    return found


def _descriptions(folder: Path, language: str) -> list[Record]:
    texts_file = sorted(folder.glob("descriptions_*.txt"))[0]
    by_stem: dict[str, list[Caption]] = {}
    for number, line in enumerate(_lines(texts_file), start=1):
        stem, _, text = line.strip().partition(" ")
        if not stem.isdigit():
            raise DataError(
                f"line {number} of {str(texts_file)!r} does not start with the number of an image: {line!r}"
            )
        by_stem.setdefault(stem, []).append((language, text.strip()))
    found = []
    for names_file in sorted(folder.glob("filenames_*.txt")):
        split = names_file.stem.removeprefix("filenames_")
        names = [name.strip() for name in _lines(names_file) if name.strip()]
        found += [Record(name, by_stem.get(Path(name).stem, []), split) for name in names]
    if not found:
        raise DataError(f"folder {str(folder)!r} has no filenames_<split>.txt beside {texts_file.name}")
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"file {str(path)!r} cannot be read: {error}") from error


def _sidecar(content: Any, path: Path) -> dict[str, list[Caption]]:
    if not isinstance(content, dict) or not all(isinstance(by_language, dict) for by_language in content.values()):
        raise DataError(f"{str(path)!r} is no sidecar of translations: {{filename: {{language: [texts]}}}}")
    added = {}
    for name, by_language in content.items():
        for language, texts in by_language.items():
            if not isinstance(texts, list):
                raise DataError(f"{str(path)!r}: the {language!r} texts of {name!r} are no list")
        added[name] = [(language, text) for language, texts in by_language.items() for text in texts]
    return added

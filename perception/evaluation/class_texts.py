"""What the classes of a data set are called in several languages, and the template of each language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perception.datasets.caption_records import read_json
from perception.datasets.class_names import read_class_names
from perception.errors import DataError
from perception.evaluation.protocol import EvaluationError


@dataclass(frozen=True)
class ClassTexts:
    """Names by language, each in the label order of the data set, and templates by language, as far as known."""

    names: dict[str, tuple[str, ...]]
    templates: dict[str, str] = field(default_factory=dict)

    def need(self, language: str, data: str) -> tuple[str, ...]:
        """Names in a language.

        Raises:
            EvaluationError: there are none.
        """
        if language not in self.names:
            raise EvaluationError(f"no class names of {data} in {language!r}, only in {', '.join(self.names)}")
        return self.names[language]


def class_texts(source: Any, classes: Sequence[str], data: str) -> ClassTexts:
    """Class names out of whatever holds them, in the order of ``classes``.

    Args:
        source: the path of a JSON file with ``languages``, ``template`` and one or several tables class -> language ->
            name, as ``class_names_10_languages.json``; the name of a table in that file of ``$PERCEPTION_DATA``
            (``eurosat``, ``rsicd30``); such a table itself; a mapping language -> names in label order; or a list of
            names in label order, taken as English.
        classes: the data set's classes in label order.
        data: name of the data set, for messages.

    Raises:
        EvaluationError: a class has no name, or a list has another length.
        DataError: a file that cannot be read.
    """
    if isinstance(source, str):
        return (
            _from_file(Path(source).expanduser(), classes, data)
            if _is_file(source)
            else _shipped(source, classes, data)
        )
    if not isinstance(source, Mapping):
        return ClassTexts({"en": _in_order(list(source), classes, data, "en")})
    if any(isinstance(names, Mapping) for names in source.values()):
        return ClassTexts(_by_language(source, classes, data))
    return ClassTexts({language: _in_order(names, classes, data, language) for language, names in source.items()})


def _is_file(source: str) -> bool:
    return source.endswith(".json") or Path(source).expanduser().is_file()


def _shipped(table: str, classes: Sequence[str], data: str) -> ClassTexts:
    found = read_class_names(table)
    rows = {name: {lang: found.names[lang][i] for lang in found.languages} for i, name in enumerate(found.classes)}
    return ClassTexts(_by_language(rows, classes, data), dict(found.templates))


def _from_file(path: Path, classes: Sequence[str], data: str) -> ClassTexts:
    content = read_json(path, ("template",))
    tables = {key: value for key, value in content.items() if isinstance(value, dict) and key != "template"}
    fitting = [table for table in tables.values() if set(classes) <= set(table)]
    if not fitting:
        raise DataError(
            f"{str(path)!r}: none of the tables {', '.join(tables) or '(there are none)'} names all of {data}"
        )
    return ClassTexts(_by_language(fitting[0], classes, data), dict(content["template"]))


def _by_language(table: Mapping[str, Any], classes: Sequence[str], data: str) -> dict[str, tuple[str, ...]]:
    absent = [name for name in classes if not isinstance(table.get(name), Mapping)]
    if absent:
        raise EvaluationError(f"no names of the class {absent[0]!r} of {data}; there are names of {', '.join(table)}")
    # Only languages in which every class has a name.
    languages = [lang for lang in table[classes[0]] if all(table[name].get(lang) for name in classes)]
    return {lang: tuple(str(table[name][lang]) for name in classes) for lang in languages}


def _in_order(names: Sequence[Any], classes: Sequence[str], data: str, language: str) -> tuple[str, ...]:
    if isinstance(names, str) or len(names) != len(classes):
        count = "one text" if isinstance(names, str) else f"{len(names)} names"
        raise EvaluationError(f"{count} in {language!r} for the {len(classes)} classes of {data}")
    return tuple(str(name) for name in names)

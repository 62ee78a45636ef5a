"""Class names in ten languages, with a template of each: ``class_names_10_languages.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perception.datasets.base import data_root
from perception.datasets.caption_records import read_json
from perception.errors import DataError, nearest
from perception.transforms.captions import Caption

AREA = "remote_sensing"
FILE = "class_names_10_languages.json"
LANGUAGES = ("en", "pt", "es", "fr", "de", "nl", "it", "zh", "ko", "ru")


@dataclass(frozen=True)
class ClassNames:
    """Names of one data set's classes in some languages.

    Attributes:
        classes: class names as the data set writes them, in label order.
        languages: the languages.
        templates: per language a text with ``{}`` in place of the name.
        names: per language the names in the order of ``classes``.
    """

    classes: tuple[str, ...]
    languages: tuple[str, ...]
    templates: dict[str, str]
    names: dict[str, tuple[str, ...]]

    def prompts(self, language: str) -> list[str]:
        """The template filled with each name, in the order of ``classes``."""
        return [self.templates[language].format(name) for name in self.names[language]]

    def captions(self, name: str) -> list[Caption]:
        """(language, filled template) of one class in every language."""
        position = self.classes.index(name)
        return [
            (language, self.templates[language].format(self.names[language][position])) for language in self.languages
        ]


def read_class_names(
    data: str = "rsicd30", languages: Sequence[str] = LANGUAGES, root: str | None = None
) -> ClassNames:
    """Read the names of ``eurosat`` (10 classes) or ``rsicd30`` (30).

    Args:
        data: which data set's classes.
        languages: languages wanted.
        root: folder of the file; ``None`` is ``$PERCEPTION_DATA/remote_sensing``.

    Raises:
        DataError: unknown data set or language, or a class without a name in one of them.
    """
    path = data_root(root, AREA, f"It must hold {FILE}.") / FILE
    content = read_json(path, ("languages", "template"))
    sets = [key for key in content if isinstance(content[key], dict) and key != "template"]
    if data not in sets:
        raise DataError(f"{str(path)!r} holds no classes of {data!r}, only of {sets}; nearest: {nearest(data, sets)}")
    unknown = [language for language in languages if language not in content["languages"]]
    if unknown:
        raise DataError(f"{str(path)!r} has no language {unknown[0]!r}, only {', '.join(content['languages'])}")
    table = content[data]
    gaps = [(name, language) for name in table for language in languages if not table[name].get(language)]
    if gaps:
        raise DataError(f"{str(path)!r}: class {gaps[0][0]!r} of {data!r} has no name in {gaps[0][1]!r}")
    return ClassNames(
        tuple(table),
        tuple(languages),
        {language: content["template"][language] for language in languages},
        {language: tuple(table[name][language] for name in table) for language in languages},
    )

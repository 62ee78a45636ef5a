"""Class names and prompts of zero-shot classification, by the names of the public code that uses them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

AVERAGES = ("normalised", "raw", "softmax")
# Between a small and a capital letter, and before the last capital of several: "SeaLake", "GISImage".
_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def clean_name(name: str, split: bool = True) -> str:
    """A class name as words: ``_`` and ``/`` become blanks, camel case is split, all in lower case.

    Without the ``split``, EuroSAT's names ("AnnualCrop") lose accuracy.
    """
    words = name.replace("_", " ").replace("/", " ")
    return " ".join((_HUMPS.sub(" ", words) if split else words).lower().split())


@dataclass(frozen=True)
class PromptSet:
    """How a class becomes texts, and texts become a class.

    Attributes:
        templates: texts with ``{}`` in place of the class name.
        average: how the texts of a class are put together, one of ``AVERAGES``: see ``zero_shot``.
        names: what it calls some classes, by their cleaned name.
    """

    templates: tuple[str, ...]
    average: str = "normalised"
    names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def name(self, cls: str) -> str:
        """What a class is called, given its cleaned name."""
        return self.names.get(cls, cls)


def _georsclip() -> tuple[str, ...]:
    """35 texts for each of three nouns: ImageNet's list without its toys, drawings and sculptures."""
    templates = []
    for article, noun in (("a", "remote sensing image"), ("an", "aerial image"), ("a", "satellite image")):
        whole = f"{article} {noun} of"
        templates += [f"{whole} {many}" for many in ("many {}.", "a {}.", "the {}.")]
        templates += [f"{whole} {some} hard to see {{}}." for some in ("the", "a")]
        kinds = "low resolution,bad,cropped,bright,dark,close-up,black and white,jpeg corrupted,blurry,good"
        templates += [f"a {kind} {noun} of {some} {{}}." for kind in kinds.split(",") for some in ("the", "a")]
        sizes = ("large", "nice", "small", "weird", "cool")
        templates += [f"{whole} {some} {size} {{}}." for size in sizes for some in ("the", "a")]
    return tuple(templates)


_CLIP_EUROSAT = {
    "annual crop": "annual crop land",
    "forest": "forest",
    "herbaceous vegetation": "brushland or shrubland",
    "highway": "highway or road",
    "industrial": "industrial buildings or commercial buildings",
    "pasture": "pasture land",
    "permanent crop": "permanent crop land",
    "residential": "residential buildings or homes or apartments",
    "river": "river",
    "sea lake": "lake or sea",
}
PROMPTS: dict[str, PromptSet] = {
    "remoteclip": PromptSet(("a satellite photo of {}.",)),
    "skyscript": PromptSet(("a satellite photo of {}.", "a satellite image of {}")),
    "clip-eurosat": PromptSet(
        tuple(f"a centered satellite photo of {some}{{}}." for some in ("", "a ", "the ")),
        names=MappingProxyType(_CLIP_EUROSAT),
    ),
    "clip-rsicd": PromptSet(("An aerial photograph of {}",)),
    "vt-rsbs": PromptSet(("a remote sensing image of a {}",), "softmax"),
    "georsclip": PromptSet(_georsclip(), "raw"),
    "aerial-photo": PromptSet(("an aerial photo of {}",)),
}
"""``aerial-photo`` is that of the baseline on the small RSICD files, the others are those of the code they are named
after. All but ``clip-eurosat`` take the data set's own class names."""


def fill(templates: Sequence[str], names: Sequence[str]) -> list[list[str]]:
    """Texts of every class: ``{}`` replaced by its name, whatever braces the name may hold."""
    return [[template.replace("{}", name) for template in templates] for name in names]

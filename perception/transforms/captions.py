"""Captions of RAW batches: one text per image and step, and the forms in which protocols write texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from perception.errors import DataError, check_arguments, not_among
from perception.registry import TRANSFORMS
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom

Caption = tuple[str, str]  # (language, text)
MODES = ("language_uniform", "english")


def _no_stop(text: str) -> str:
    text = text.rstrip()
    return text[:-1].rstrip() if text.endswith((".", "。")) else text


TEXT_FORMS: dict[str, Callable[[str], str]] = {
    "as_is": lambda text: text,  # GeoRSCLIP
    "capitalize": str.capitalize,  # RemoteCLIP; Python's capitalize lower-cases the rest too
    "no_stop": _no_stop,  # VT-RSBS
    "spaced_stop": lambda text: _no_stop(text).lower() + " .",  # AMFMN
}


def apply_text_form(text: str, form: str) -> str:
    """``text`` as a protocol writes it; ``form`` is a key of ``TEXT_FORMS``.

    ``capitalize`` upper-cases the first letter and lower-cases the rest, ``no_stop`` takes a final full stop and the
    blanks before it away, ``spaced_stop`` lower-cases and ends with " .". The form alone moves R@1 by points.
    """
    return TEXT_FORMS[form](text)


@TRANSFORMS.register_module()
class PickCaption(Transform):
    """One caption per image and step: ``captions`` becomes ``text`` (list of B) and ``language`` (list of B).

    An epoch stays one pass over the images however many translations there are, and two captions of an image never
    meet in one batch. The choice is a function of (seed, epoch, index).

    Args:
        mode: ``language_uniform`` draws a language uniformly among those that the image has, then a caption uniformly
            among that language's; ``english`` draws English with probability ``p_en``, else one of the image's other
            languages uniformly. An image without English, or with nothing else, takes what it has.
        p_en: probability of English, for ``mode='english'`` only.
        languages: keep to these languages; ``None`` takes all.
    """

    def __init__(
        self, mode: str = "language_uniform", p_en: float | None = None, languages: Sequence[str] | None = None
    ) -> None:
        for key, message in self.check_config({"mode": mode, "p_en": p_en, "languages": languages}):
            raise ValueError(f"PickCaption.{key}: {message}")
        self.mode = mode
        self.p_en = p_en
        self.languages = None if languages is None else tuple(languages)

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch -> RAW batch.

        Raises:
            DataError: an image has no caption to choose, naming its index.
        """
        which_language, which_caption = random.uniform().tolist(), random.uniform().tolist()
        texts: list[str] = []
        languages: list[str] = []
        for position, captions in enumerate(batch["captions"]):
            groups: dict[str, list[str]] = {}
            for language, text in captions:
                if self.languages is None or language in self.languages:
                    groups.setdefault(language, []).append(text)
            if not groups:
                raise DataError(self._nothing(captions, int(random.indices[position])))
            language = self._choose(list(groups), which_language[position])
            group = groups[language]
            texts.append(group[int(which_caption[position] * len(group))])
            languages.append(language)
        rest = {key: value for key, value in batch.items() if key != "captions"}
        return {**rest, "text": texts, "language": languages}

    def _choose(self, present: list[str], draw: float) -> str:
        """A language among those ``present``; ``draw`` is uniform in [0, 1)."""
        if self.p_en is not None and "en" in present and len(present) > 1:
            if draw < self.p_en:
                return "en"
            present = [language for language in present if language != "en"]
            draw = (draw - self.p_en) / (1.0 - self.p_en)
        return present[min(int(draw * len(present)), len(present) - 1)]

    def _nothing(self, captions: Sequence[Caption], index: int) -> str:
        if not captions:
            return f"PickCaption: the image at index {index} has no caption"
        there = sorted({language for language, _ in captions})
        return f"PickCaption: the image at index {index} has captions in {there}, none in {list(self.languages or ())}"

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config: unknown mode, a probability without its mode or out of range, no language at all."""
        if cfg["mode"] not in MODES:
            yield "mode", not_among(cfg["mode"], MODES)
        elif cfg["mode"] == "english" and (cfg["p_en"] is None or not 0 <= cfg["p_en"] <= 1):
            yield "p_en", "mode='english' needs a probability in [0, 1]"
        elif cfg["mode"] != "english" and cfg["p_en"] is not None:
            yield "p_en", "has no meaning without mode='english'"
        if cfg["languages"] is not None and len(cfg["languages"]) == 0:
            yield "languages", "must name at least one language; None takes all"


@TRANSFORMS.register_module()
class DropWords(Transform):
    """Leaves words out of ``text`` at random, at least one stays.

    Random deletion of "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks",
    Wei and Zou, 2019. A dual encoder trained on whole sentences meets a class name in a short prompt for the first time
    at the test; with words left out it has seen short texts.

    Args:
        share: largest share of the words that are left out; the share of a text is uniform in [0, share].
    """

    def __init__(self, share: float = 0.5) -> None:
        check_arguments("transforms.DropWords", self.check_config, locals())
        self.share = share

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        """RAW batch with ``text`` (list of B) -> RAW batch.

        Raises:
            DataError: no text was chosen yet.
        """
        if "text" not in batch:
            raise DataError("DropWords needs 'text': put it behind PickCaption")
        shares = random.uniform(0.0, self.share)
        streams = random.streams(1)
        kept = []
        for i, text in enumerate(batch["text"]):
            words = text.split()
            draws = streams.generator(i).random(len(words))
            stay = draws >= min(shares[i], draws.max(initial=0.0))  # the largest draw always stays
            kept.append(" ".join(word for word, s in zip(words, stay, strict=True) if s))
        return {**batch, "text": kept}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """A share in [0, 1)."""
        if not 0 <= cfg["share"] < 1:
            yield "share", "must lie in [0, 1)"

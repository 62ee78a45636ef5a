"""Cross-modal retrieval of a dual encoder by named rules, beside chance and the ceiling of duplicate captions.

Rules of ChenDelong1999/RemoteCLIP ("RemoteCLIP: A Vision Language Foundation Model for Remote Sensing", Liu et al.,
2024), om-ai-lab/RS5M ("RS5M and GeoRSCLIP", Zhang et al., 2024), wangzhecheng/SkyScript (Wang et al., 2024),
xiaoyuan1996/AMFMN (Yuan et al., 2022) and albertofrizzera/VT-RSBS. Only figures made by the same rules compare: the
form of the texts alone moves R@1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from perception.errors import not_among
from perception.evaluation.multilingual import over_languages
from perception.evaluation.protocol import EvaluationError, Outcome, as_list, positive
from perception.evaluation.retrieval import TILE, owner_pairs, retrieval_ranks, true_recall
from perception.evaluation.retrieval_bounds import (
    DIRECTIONS,
    MEAN_KS,
    chance_closed_form,
    chance_ranks,
    duplicate_ceiling,
    recalls,
)
from perception.evaluation.towers import Scenes, TowerProtocol, Towers
from perception.registry import PROTOCOLS
from perception.transforms.captions import apply_text_form

HEADLINE = "mean recall"
SHEET_ROWS = 6


@dataclass(frozen=True)
class Rules:
    """What a public evaluation does with the texts.

    Attributes:
        form: how a caption is written, a key of ``TEXT_FORMS``.
        prefix: put in front of every caption.
        unique: equal captions are one entry of the gallery, which may belong to several images.
        ks: values of k that it reports.
    """

    form: str = "as_is"
    prefix: str = ""
    unique: bool = False
    ks: tuple[int, ...] = MEAN_KS

    def write(self, text: str) -> str:
        """A caption as the encoder reads it."""
        return self.prefix + apply_text_form(text, self.form)


RULES: dict[str, Rules] = {
    "default": Rules(),
    "remoteclip": Rules("capitalize"),
    "georsclip": Rules("as_is"),
    "vt-rsbs": Rules("no_stop", ks=(*MEAN_KS, 50)),
    "amfmn": Rules("spaced_stop"),
    "skyscript": Rules(prefix="a satellite image. ", unique=True, ks=(*MEAN_KS, 100)),
}
"""By the name of the code that has them. ``default`` and ``georsclip`` take captions as they are."""


@dataclass(frozen=True)
class Gallery:
    """Texts of one language on all images.

    Attributes:
        texts: M texts, as the encoder reads them.
        pairs: ``(P, 2)`` int64, which text belongs to which image.
        images: number of images N.
        silent: number of images without a text.
    """

    texts: list[str]
    pairs: Tensor
    images: int
    silent: int

    @classmethod
    def of(cls, scenes: Scenes, language: str, rules: Rules) -> Gallery:
        """The captions of ``scenes`` in one language, written as ``rules`` say."""
        own = [[rules.write(text) for spoken, text in pairs if spoken == language] for pairs in scenes.captions]
        texts = [text for some in own for text in some]
        if not texts:
            raise EvaluationError(f"{scenes.name} has no captions in {language!r}")
        owner = torch.tensor([image for image, some in enumerate(own) for _ in some], dtype=torch.int64)
        pairs = owner_pairs(owner)
        if rules.unique:
            place = {text: position for position, text in enumerate(dict.fromkeys(texts))}
            pairs = torch.stack([torch.tensor([place[text] for text in texts]), owner], dim=1).unique(dim=0)
            texts = list(place)
        return cls(texts, pairs, len(own), sum(not some for some in own))

    def queries(self, name: str) -> int:
        """Number of queries of a direction, whose name a figure begins with."""
        return self.images - self.silent if name.startswith("i2t") else len(self.texts)

    def own(self) -> list[list[str]]:
        """The texts of every image."""
        found: list[list[str]] = [[] for _ in range(self.images)]
        for text, image in self.pairs.tolist():
            found[image].append(self.texts[text])
        return found


@PROTOCOLS.register_module()
class Retrieval(TowerProtocol):
    """Recall at k of text -> image and image -> text, and its mean over the six figures at 1, 5 and 10.

    The figures read ties optimistically; ``extras`` hold the pessimistic and the expected reading, which the tables
    show where they differ by more than 0.05 point. With several languages, the texts of one at a time stand against
    all images; the headline is the mean over the languages, and the worst one stands beside it.

    Args:
        rules: one of ``RULES``.
        languages: languages to judge; ``None`` takes all that the captions have.
        ks: further values of k, such as ``[50]``.
        median_rank: also give the median rank of the first own entry, from 1.
        true_recall: also give the mean share of own entries found, which is another figure; never compare the two.
        tile: rows and columns of the scores computed at once.
        dataset: config of the data set; ``None`` takes ``evaluation.test``.
    """

    reads_captions = True

    def __init__(
        self,
        rules: str = "default",
        languages: Sequence[str] | str | None = None,
        ks: Sequence[int] = (),
        median_rank: bool = False,
        true_recall: bool = False,
        tile: int = TILE,
        dataset: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(dataset)
        if rules not in RULES:
            raise EvaluationError(f"Retrieval: rules {rules!r}: {not_among(rules, RULES)}")
        self.name, self.rules = rules, RULES[rules]
        self.languages = as_list(languages)
        self.ks = sorted({*self.rules.ks, *ks})
        self.median_rank, self.true_recall, self.tile = median_rank, true_recall, tile

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Known rules, positive sizes."""
        if cfg["rules"] not in RULES:
            yield "rules", not_among(cfg["rules"], RULES)
        if cfg["languages"] is not None and not as_list(cfg["languages"]):
            yield "languages", "must name at least one language; None takes all"
        yield from positive(cfg, "ks", "tile")

    def galleries(self, scenes: Scenes) -> dict[str, Gallery]:
        """Texts by language.

        Raises:
            EvaluationError: no captions at all, or none in a language that is asked for.
        """
        languages = self.languages or list(dict.fromkeys(word for pairs in scenes.captions for word, _ in pairs))
        if not languages:
            raise EvaluationError(f"Retrieval needs captions; {scenes.name} has none")
        return {language: Gallery.of(scenes, language, self.rules) for language in languages}

    def run(self, towers: Towers, seed: int) -> list[Outcome]:
        """Mean recall, then every recall at k."""
        return over_languages(
            {name: self._judge(towers, gallery, name) for name, gallery in self.galleries(towers.scenes).items()}
        )

    def _judge(self, towers: Towers, gallery: Gallery, language: str) -> list[Outcome]:
        features, rows = towers.texts(gallery.texts)
        both = retrieval_ranks(features, towers.images, gallery.pairs, rows, self.tile)
        found = {ties: recalls(both, self.ks, ties) for ties in ("optimistic", "pessimistic", "expected")}
        bounds = {
            name: {"pessimistic": found["pessimistic"][name], "expected": found["expected"][name]}
            for name in found["optimistic"]
        }
        notes = []
        if gallery.silent:
            spoken = "" if len(self.languages) == 1 else f" in {language}"
            notes.append(
                f"{gallery.silent} of {gallery.images} images of {towers.scenes.name} have no caption{spoken}: no "
                "queries, they stay in the gallery"
            )
        if self.median_rank:
            medians = {f"{d} median rank": ranks.median() for d, ranks in zip(DIRECTIONS, both, strict=True)}
            bounds[HEADLINE] |= medians
            notes.append("median rank: " + ", ".join(f"{name[:3]} {value:g}" for name, value in medians.items()))
        outcomes = self._outcomes(found["optimistic"], gallery, bounds, tuple(notes))
        if self.true_recall:
            shares = true_recall(features, towers.images, gallery.pairs, self.ks, rows, self.tile)
            # A mean of shares, not a share of queries.
            outcomes += [
                Outcome(name, share, gallery.queries(name), proportion=False) for name, share in shares.items()
            ]
        return outcomes

    def _outcomes(
        self,
        values: Mapping[str, float],
        gallery: Gallery,
        extras: Mapping[str, dict[str, float]],
        notes: tuple[str, ...] = (),
    ) -> list[Outcome]:
        """The mean first, then the recalls. The ranks of one image's texts hang together, so intervals are rough."""
        settings = {"rules": self.name, "texts": len(gallery.texts), "images": gallery.images}
        head = Outcome(
            HEADLINE,
            values[HEADLINE],
            gallery.queries("i2t"),
            extras=dict(extras.get(HEADLINE, {})),
            settings=settings,
            proportion=False,
            notes=notes,
        )
        others = [
            Outcome(name, value, gallery.queries(name), extras=dict(extras.get(name, {})), settings=settings)
            for name, value in values.items()
            if name != HEADLINE
        ]
        return [head, *others]

    def references(self, scenes: Scenes) -> dict[str, list[Outcome]]:
        """Random scores, and unless equal captions are one entry, what their duplicates leave possible."""
        chance, ceiling = {}, {}
        for language, gallery in self.galleries(scenes).items():
            texts, queries = len(gallery.texts), gallery.queries("i2t")
            exact = recalls(chance_ranks(gallery.pairs, texts, gallery.images), self.ks, "expected")
            extras = {}
            if not self.rules.unique:
                extras = {HEADLINE: {"closed_form": chance_closed_form(texts, gallery.images, texts / queries)}}
                best = recalls(duplicate_ceiling(gallery.own()), self.ks, "expected")
                ceiling[language] = self._outcomes(best, gallery, {})
            chance[language] = self._outcomes(exact, gallery, extras)
        found = {"chance": over_languages(chance)}
        return found | ({"ceiling": over_languages(ceiling)} if ceiling else {})

    def label(self, scenes: Scenes) -> str:
        """The data set, and the rules where they are not the default."""
        return scenes.name if self.name == "default" else f"{scenes.name}, {self.name} rules"

    def draw(self, towers: Towers, folder: Path, name: str) -> list[Path]:
        """A sheet of queries with the five images that come first; hits are framed."""
        from perception.evaluation.tower_pictures import retrieval_sheet

        if towers.pixels is None:
            return []
        language, gallery = next(iter(self.galleries(towers.scenes).items()))
        # Evenly spread over the gallery, one text an image.
        firsts = {image: text for text, image in reversed(gallery.pairs.tolist())}
        images = sorted(firsts)
        chosen = [images[int(i * len(images) / SHEET_ROWS)] for i in range(min(SHEET_ROWS, len(images)))]
        texts = [gallery.texts[firsts[image]] for image in dict.fromkeys(chosen)]
        features, rows = towers.texts(texts)
        scores = normalize(features[rows], dim=1) @ normalize(towers.images, dim=1).T
        owned: dict[str, set[int]] = {text: set() for text in texts}
        for text, image in gallery.pairs.tolist():
            owned.get(gallery.texts[text], set()).add(image)
        sheet = []
        for text, row in zip(texts, scores, strict=True):
            top = row.topk(min(5, len(row)))
            found = top.indices.tolist()
            hits = [image in owned[text] for image in found]
            rank = int((row > row[list(owned[text])].max()).sum()) + 1
            sheet.append((text, rank, list(zip(towers.pixels(found), top.values.tolist(), hits, strict=True))))
        title = f"{towers.scenes.name} ({language}): the images that come first for a text"
        return [retrieval_sheet(sheet, title, folder / f"{name}_sheet.png")]

"""Zero-shot classification of a dual encoder by named prompt sets, in one language or in several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from perception.config import plain
from perception.errors import not_among
from perception.evaluation.class_texts import ClassTexts, class_texts
from perception.evaluation.multilingual import over_languages
from perception.evaluation.prompts import AVERAGES, PROMPTS, PromptSet, clean_name, fill
from perception.evaluation.protocol import EvaluationError, Outcome, as_list, positive
from perception.evaluation.towers import Scenes, TowerProtocol, Towers
from perception.evaluation.zero_shot import class_scores, confusion, label_ranks, per_class, top_k
from perception.registry import PROTOCOLS

ALL = "all"
DEFAULT = "remoteclip"


@PROTOCOLS.register_module()
class ZeroShot(TowerProtocol):
    """Top-k accuracy of the classifier that the class names make.

    The class list comes from the data set. Images without a class are left out and counted. In several languages, each
    is judged alone with its own names and template; the headline is the mean, and the worst language stands beside it.

    Args:
        prompts: one of ``PROMPTS``, or templates with ``{}`` in place of the class name; with ``languages``, language
            -> template or templates. ``None`` is ``remoteclip``, with ``languages`` the templates that come with the
            class names.
        average: one of ``AVERAGES``; ``None`` takes what the prompt set says.
        topk: values of k; the first is the headline. Those not below the number of classes are left out.
        languages: languages to judge, or ``all`` that have names; ``None`` is one classifier as the prompt set has it.
        class_names: names instead of the data set's own, see ``class_texts``; with ``languages``, by language. They are
            taken as they are; class names of the data set are cleaned first (``clean_name``).
        split_names: split camel case ("AnnualCrop") when cleaning; GeoRSCLIP does not.
        dataset: config of the data set; ``None`` takes ``evaluation.test``.
    """

    def __init__(
        self,
        prompts: str | Sequence[str] | Mapping[str, Any] | None = None,
        average: str | None = None,
        topk: Sequence[int] = (1,),
        languages: Sequence[str] | str | None = None,
        class_names: str | Mapping[str, Any] | Sequence[str] | None = None,
        split_names: bool = True,
        dataset: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(dataset)
        given = {"prompts": prompts, "average": average, "topk": topk, "languages": languages}
        for key, message in self.check_config(given):
            raise EvaluationError(f"ZeroShot.{key}: {message}")
        self.prompts, self.average = prompts, average
        self.topk, self.languages = list(topk), languages
        self.class_names, self.split_names = class_names, split_names

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Known prompt sets and averages, templates with a place for the name, prompts that fit the languages."""
        prompts, languages = cfg["prompts"], cfg["languages"]
        known = isinstance(prompts, str) and prompts in PROMPTS
        if isinstance(prompts, str) and not known and "{}" not in prompts:
            yield "prompts", not_among(prompts, PROMPTS)
        elif languages is None and isinstance(prompts, Mapping):
            yield "prompts", "templates by language need languages"
        elif languages is not None and prompts is not None and not isinstance(prompts, Mapping):
            yield "prompts", "with languages, templates by language belong here, or None"
        elif not known and prompts is not None:
            by_language = prompts.values() if isinstance(prompts, Mapping) else [prompts]
            for template in (text for texts in by_language for text in as_list(texts)):
                if not isinstance(template, str) or "{}" not in template:
                    yield "prompts", f"the template {template!r} has no {{}} for the class name"
        if languages is not None and not as_list(languages):
            yield "languages", "must name at least one language; None is a single classifier"
        if cfg["average"] is not None and cfg["average"] not in AVERAGES:
            yield "average", not_among(cfg["average"], AVERAGES)
        if not as_list(cfg["topk"]):
            yield "topk", "must name at least one k"
        yield from positive(cfg, "topk")

    def texts(self, scenes: Scenes) -> dict[str, tuple[list[list[str]], str]]:
        """By language, the texts of every class in label order, and how they are averaged.

        Raises:
            EvaluationError: a class or language lacks a name or a template.
        """
        if self.languages is None:
            own = self._named() or PromptSet(tuple(as_list(self.prompts)))
            names = [own.name(clean_name(name, self.split_names)) for name in scenes.classes]
            if self.class_names is not None:
                given = class_texts(self.class_names, scenes.classes, scenes.name)
                names = list(given.need("en" if "en" in given.names else next(iter(given.names)), scenes.name))
            return {"en": (fill(own.templates, names), self.average or own.average)}
        known = self._names_by_language(scenes)
        languages = list(known.names) if self.languages == ALL else as_list(self.languages)
        templates = self.prompts if isinstance(self.prompts, Mapping) else known.templates or scenes.class_templates
        for language in languages:
            if language not in templates:
                raise EvaluationError(f"no template in {language!r}, only in {', '.join(templates) or 'none'}")
        return {
            lang: (fill(as_list(templates[lang]), known.need(lang, scenes.name)), self.average or AVERAGES[0])
            for lang in languages
        }

    def _named(self) -> PromptSet | None:
        if self.prompts is None:
            return PROMPTS[DEFAULT]
        return PROMPTS.get(self.prompts) if isinstance(self.prompts, str) else None

    def _names_by_language(self, scenes: Scenes) -> ClassTexts:
        source = self.class_names if self.class_names is not None else scenes.class_names
        if not source:
            raise EvaluationError(
                f"ZeroShot in several languages needs class_names; {scenes.name} brings none of its own"
            )
        return class_texts(source, scenes.classes, scenes.name)

    def run(self, towers: Towers, seed: int) -> list[Outcome]:
        """Accuracy, then that of every further k."""
        labels, known = self._labels(towers.scenes)
        images = towers.images[known.to(towers.images.device)]
        found = {}
        for language, (texts, average) in self.texts(towers.scenes).items():
            scores = self._scores(towers, images, texts, average)
            ranks = label_ranks(scores, labels)
            shares = {k: top_k(ranks, k) for k in self._ks(towers.scenes)}
            by_class = per_class(ranks, labels, towers.scenes.classes)
            extras = {"mean_class_accuracy": sum(by_class.values()) / len(by_class), "per_class": by_class}
            found[language] = self._outcomes(towers.scenes, shares, texts, average, extras)
        return over_languages(found)

    def references(self, scenes: Scenes) -> dict[str, list[Outcome]]:
        """Guessing a class."""
        shares = {k: k / len(scenes.classes) for k in self._ks(scenes)}
        texts = self.texts(scenes)
        return {"chance": over_languages({lang: self._outcomes(scenes, shares, *texts[lang], {}) for lang in texts})}

    def draw(self, towers: Towers, folder: Path, name: str) -> list[Path]:
        """The confusion matrix of the first language."""
        from perception.evaluation.tower_pictures import confusion_matrix

        labels, known = self._labels(towers.scenes)
        language, (texts, average) = next(iter(self.texts(towers.scenes).items()))
        images = towers.images[known.to(towers.images.device)]
        counts = confusion(self._scores(towers, images, texts, average), labels)
        title = f"{towers.scenes.name} ({language}): {texts[0][0]!r} ..."
        return [confusion_matrix(counts.numpy(), towers.scenes.classes, title, folder / f"{name}_confusion.png")]

    def _labels(self, scenes: Scenes) -> tuple[Tensor, Tensor]:
        """Labels of the images that have one, and which these are."""
        if not scenes.classes:
            raise EvaluationError(f"ZeroShot needs class names; {scenes.name} has no classes")
        known = (scenes.label >= 0).nonzero()[:, 0]
        if not len(known):
            raise EvaluationError(f"ZeroShot needs labelled images; {scenes.name} has none")
        labels = scenes.label[known]
        if int(labels.max()) >= len(scenes.classes):
            raise EvaluationError(
                f"{scenes.name} has label {int(labels.max())}, but names {len(scenes.classes)} classes"
            )
        return labels, known

    def _scores(self, towers: Towers, images: Tensor, texts: list[list[str]], average: str) -> Tensor:
        features, rows = towers.texts([text for own in texts for text in own])
        return class_scores(images, features[rows].reshape(len(texts), len(texts[0]), -1), average).cpu()

    def _ks(self, scenes: Scenes) -> list[int]:
        return [k for k in self.topk if k < len(scenes.classes)] or [1]

    def _outcomes(
        self,
        scenes: Scenes,
        shares: Mapping[int, float],
        texts: list[list[str]],
        average: str,
        extras: Mapping[str, Any],
    ) -> list[Outcome]:
        n = int((scenes.label >= 0).sum())
        notes = []
        if n < len(scenes):
            notes.append(f"{len(scenes) - n} of {len(scenes)} images of {scenes.name} have no class: left out")
        doubles = len(texts) - len({tuple(own) for own in texts})
        if doubles:
            notes.append(f"{doubles} classes of {scenes.name} read the same as another: the lower one always wins")
        prompts = DEFAULT if self.prompts is None and self.languages is None else self.prompts
        settings = {"prompts": plain(prompts), "templates": len(texts[0]), "average": average}
        names = {k: "accuracy" if k == 1 else f"top-{k} accuracy" for k in shares}
        return [
            Outcome(names[k], share, n, extras=dict(extras) if not i else {}, settings=settings, notes=tuple(notes))
            for i, (k, share) in enumerate(shares.items())
        ]

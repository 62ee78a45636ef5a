"""Whole words as tokens: a vocabulary of hundreds for towers that are trained from scratch on small data."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from perception.errors import ConfigError, Fault
from perception.registry import DATASETS, TOKENIZERS
from perception.text.tokenizer import Tokenizer

# Han, kana: scripts without spaces between words, taken character by character. Hangul has spaces.
_SINGLE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORD = re.compile(rf"[{_SINGLE}]|[^\W_{_SINGLE}]+")
_SPECIAL = 2  # padding, unknown


def words_of(text: str) -> list[str]:
    """Lower-cased words of a text in order, punctuation dropped, CJK characters one by one.

    Compatibility forms are folded first (NFKC), so that full-width letters and composed accents are one word.
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def count_words(texts: Iterable[str], min_count: int = 1) -> list[str]:
    """Words that occur at least ``min_count`` times, the most frequent first, equals in alphabetical order."""
    counts = Counter(word for text in texts for word in words_of(text))
    return sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))


@TOKENIZERS.register_module()
class WordTokenizer(Tokenizer):
    """Ids 0 padding, 1 unknown, 2 ... the words, then the end token, which is the highest id.

    Its record holds the words, so that what was fitted once needs the data never again.

    Args:
        words: the vocabulary in id order.
        fit: config of a caption data set from whose captions the vocabulary is taken instead, once, when the tokenizer
            is built.
        min_count: how often a word must occur in ``fit`` to be in the vocabulary.
        context_length: see ``Tokenizer``.
    """

    pad_id = 0
    unknown_id = 1

    def __init__(
        self,
        words: Sequence[str] | None = None,
        fit: dict[str, Any] | None = None,
        min_count: int = 2,
        context_length: int = 32,
    ) -> None:
        super().__init__(context_length)
        cfg = {"words": words, "fit": fit, "min_count": min_count, "context_length": context_length}
        faults = [Fault(f"tokenizer.{key}", cfg[key], text) for key, text in self.check_config(cfg)]
        if faults:
            raise ConfigError(faults)
        self.words = tuple(fitted_words(fit, min_count) if words is None else words)  # type: ignore[arg-type]
        self.ids = {word: _SPECIAL + place for place, word in enumerate(self.words)}
        self.end_id = _SPECIAL + len(self.words)
        self.vocab_size = self.end_id + 1

    def encode(self, text: str) -> list[int]:
        """Ids of the words and the end token."""
        return [*(self.ids.get(word, self.unknown_id) for word in words_of(text)), self.end_id]

    def record(self) -> dict[str, Any]:
        """The words themselves, however they were found."""
        return {"type": "WordTokenizer", "context_length": self.context_length, "words": list(self.words)}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Exactly one source of words, each of them one."""
        yield from super().check_config(cfg)
        words = cfg["words"]
        if (words is None) == (cfg["fit"] is None):
            yield "words", "give either words=[...] or fit=<caption data set>"
        if not isinstance(cfg["min_count"], int) or cfg["min_count"] < 1:
            yield "min_count", "must be a whole number of at least 1"
        if words is not None:
            if len(set(words)) < len(words):
                yield "words", "names a word twice"
            wrong = [word for word in words if words_of(word) != [word]]
            if wrong:
                yield "words", f"{wrong[0]!r} is not one lower-cased word, so no text could ever hold it"


def fitted_words(fit: Any, min_count: int) -> list[str]:
    """Words of all captions of a data set, given by its config or as an instance.

    Raises:
        ConfigError: it has no captions, or none of its words occurs often enough.
    """
    data: Any = DATASETS.build(dict(fit)) if isinstance(fit, dict) else fit
    captions = getattr(data, "captions", None)
    if captions is None:
        raise ConfigError([Fault("tokenizer.fit", type(data).__name__, "a data set without captions has no words")])
    words = count_words((text for image in captions for _, text in image), min_count)
    if not words:
        raise ConfigError([Fault("tokenizer.min_count", min_count, "no word occurs so often in the captions")])
    return words

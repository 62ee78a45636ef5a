"""Tokenizers: shapes, truncation, records, and equality with the public ones."""

import json

import pytest
import torch

from perception.errors import ConfigError, DataError
from perception.registry import TOKENIZERS
from perception.text.byte_tokenizer import ByteTokenizer
from perception.text.clip_tokenizer import CLIPTokenizer
from perception.text.hf_tokenizer import HFTokenizer
from perception.text.words import WordTokenizer, count_words, words_of

TEXTS = ["A photo of an airport.", "two planes", "many green trees, and one very very very long sentence"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer of transformers in a local folder: pieces of letters between <s> and </s>, as XLM-R has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [(word, 0.0) for word in special] + [("▁", -2.0), *((c, -3.0) for c in "abcdefghijklmnopqrstuvwxyzé村")]
    backend = Tokenizer(models.Unigram([*pieces, ("▁two", -1.0), ("▁plane", -1.0)], unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    path = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(path)
    return path


def every(folder):
    words = ["a", "photo", "of", "two", "planes", "many"]
    return [
        WordTokenizer(words=words, context_length=6),
        ByteTokenizer(context_length=12),
        CLIPTokenizer(context_length=9),
        HFTokenizer(str(folder), context_length=8),
    ]


def test_batches_are_as_long_as_their_longest_text_and_truncation_keeps_the_end(folder):
    for tokenizer in every(folder):
        ids, mask = tokenizer(TEXTS)
        assert ids.dtype == torch.int64 and mask.dtype == torch.bool and ids.shape == mask.shape
        assert ids.shape[1] == tokenizer.context_length and ids.max() < tokenizer.vocab_size
        assert (ids[~mask] == tokenizer.pad_id).all()
        lengths = mask.sum(1)
        assert mask.tolist() == [[i < n for i in range(ids.shape[1])] for n in lengths]  # padding is behind
        assert (ids[torch.arange(3), lengths - 1] == tokenizer.end_id).all()
        short, _ = tokenizer(TEXTS[1:2])
        assert torch.equal(short[0], ids[1][mask[1]])  # whatever stands beside it
        assert tokenizer(TEXTS)[0] is not ids  # callers may write into what they get
        empty, seen = tokenizer([""])
        assert empty[0, -1] == tokenizer.end_id and seen.all()
        assert tokenizer([])[0].shape[0] == 0


def test_records_build_the_same_tokenizer_even_after_json(folder):
    for tokenizer in every(folder):
        again = TOKENIZERS.build(json.loads(json.dumps(tokenizer.record())))
        assert again == tokenizer and hash(again) == hash(tokenizer)
        assert torch.equal(again(TEXTS)[0], tokenizer(TEXTS)[0])
        attributes = ("vocab_size", "context_length", "pad_id", "end_id")
        assert [getattr(again, a) for a in attributes] == [getattr(tokenizer, a) for a in attributes]
    assert ByteTokenizer(8) != ByteTokenizer(9) and ByteTokenizer(8) != WordTokenizer(words=["a"], context_length=8)


@pytest.mark.parametrize("texts", ["a photo", [b"a photo"], [None]])
def test_what_is_no_list_of_texts_is_refused(texts):
    with pytest.raises(DataError, match="text"):
        ByteTokenizer()(texts)


# Words.


def test_words_are_folded_split_and_cjk_characters_stand_alone():
    assert words_of("Two  PLANES, on_the runway's edge.") == ["two", "planes", "on", "the", "runway", "s", "edge"]
    assert words_of("一座机场。Airport 2") == ["一", "座", "机", "场", "airport", "2"]
    assert words_of("Ｆｕｌｌ cafe\u0301") == ["full", "café"]  # full-width letters, a combining accent
    assert words_of("аэропорт 공항 사진 École") == ["аэропорт", "공항", "사진", "école"]
    assert words_of(" . ") == []


def test_vocabulary_is_by_frequency_then_alphabet():
    texts = ["b a c", "a b", "a d d"]
    assert count_words(texts) == ["a", "b", "d", "c"] and count_words(texts, 2) == ["a", "b", "d"]


def test_word_ids():
    tokenizer = WordTokenizer(words=["river", "green"], context_length=4)
    ids, _ = tokenizer(["Green river!", "a green lake by the river"])
    assert ids.tolist() == [[3, 2, 4, 0], [1, 3, 1, 4]]  # 4 is the end and the highest; the second text is cut
    assert tokenizer.vocab_size == 5


class Captions:
    captions = ([("en", "a river"), ("de", "ein Fluss")], [("en", "a forest"), ("de", "ein Wald am Fluss")])


def test_words_are_fitted_to_captions_once():
    tokenizer = WordTokenizer(fit=Captions(), min_count=2)
    assert tokenizer.words == ("a", "ein", "fluss")
    assert tokenizer.record() == {"type": "WordTokenizer", "context_length": 32, "words": ["a", "ein", "fluss"]}
    with pytest.raises(ConfigError, match="no word occurs so often"):
        WordTokenizer(fit=Captions(), min_count=3)
    with pytest.raises(ConfigError, match="without captions"):
        WordTokenizer(fit=object())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "either words"),
        (dict(words=["a"], fit={}), "either words"),
        (dict(words=["a", "a"]), "twice"),
        (dict(words=["Two"]), "'Two' is not one lower-cased word"),
        (dict(words=["two planes"]), "not one"),
        (dict(words=["a"], min_count=0), "min_count"),
        (dict(words=["a"], context_length=1), "context_length"),
    ],
)
def test_impossible_vocabularies_are_named(arguments, text):
    with pytest.raises(ConfigError, match=text):
        WordTokenizer(**arguments)


# Public tokenizers.


def test_byte_pairs_are_open_clips():
    import open_clip

    texts = [*TEXTS, "wow!!! a naïve café", "x" * 400]
    ids, mask = CLIPTokenizer()(texts)
    expected = open_clip.tokenize(texts)
    assert torch.equal(torch.nn.functional.pad(ids, (0, 77 - ids.shape[1])), expected)
    assert (ids.argmax(1) == mask.sum(1) - 1).all()  # how open_clip finds the end
    assert mask[3].sum() == mask[3].nonzero().max() + 1


def test_ids_are_those_of_transformers(folder):
    from transformers import AutoTokenizer

    public = AutoTokenizer.from_pretrained(str(folder))
    tokenizer = HFTokenizer(str(folder), context_length=8)
    ids, mask = tokenizer(["two planes", "café 村 a very long text indeed"])
    expected = public(
        ["two planes", "café 村 a very long text indeed"],
        truncation=True,
        max_length=8,
        padding=True,
        return_tensors="pt",
    )
    assert torch.equal(ids, expected.input_ids) and torch.equal(mask.long(), expected.attention_mask)
    assert (tokenizer.pad_id, tokenizer.end_id) == (1, 2)
    assert torch.equal(HFTokenizer(str(folder), clean="lower")(["TWO"])[0], tokenizer(["two"])[0])


def test_a_stripped_separator_is_zero(folder):
    ids, _ = HFTokenizer(str(folder), context_length=8, strip_sep_token=True)(["two planes", "a" * 20])
    assert (ids[0] != 2).all() and ids[1, -1] == 0


def test_a_tokenizer_that_is_nowhere_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"tokenizer\.name"):
        HFTokenizer(str(tmp_path / "nothing"))


def test_bytes_need_nothing():
    tokenizer = ByteTokenizer(context_length=6)
    assert tokenizer(["é"])[0].tolist() == [[1 + 0xC3, 1 + 0xA9, 257]]
    assert tokenizer(["abcdefgh"])[0].tolist() == [[98, 99, 100, 101, 102, 257]]

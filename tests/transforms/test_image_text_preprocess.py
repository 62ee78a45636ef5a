"""Images with texts: tokens, masks, hashes, and what is told when records differ."""

import json

import pytest
import torch

from perception.errors import CheckpointError, ConfigError, DataError
from perception.registry import PREPROCESSES
from perception.transforms.image_preprocess import ImagePreprocess
from perception.transforms.image_text_preprocess import ImageTextPreprocess, hash_texts

WORDS = dict(type="WordTokenizer", words=["a", "river", "forest"], context_length=8)
RAW = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)


def record(**changes):
    return ImageTextPreprocess(**{"size": 4, "tokenizer": WORDS, **changes})


def test_images_and_texts_together_and_alone():
    pre, raw = record(), {"image": RAW, "text": ["a river", "a forest a"], "language": ["en", "en"]}
    out = pre(raw)
    assert out["text"].tolist() == [[2, 3, 5, 0], [2, 4, 2, 5]] and out["language"] == ["en", "en"]
    assert out["text_mask"].tolist() == [[True, True, True, False], [True] * 4]
    assert out["text_hash"].dtype == torch.int64 and raw["text"] == ["a river", "a forest a"]
    alone = pre({"image": RAW})
    assert set(alone) == {"image"} and torch.equal(alone["image"], out["image"])
    texts = pre({"text": ["a river"]})
    assert set(texts) == {"text", "text_mask", "text_hash"}
    views = pre({"views": [RAW, RAW[..., :2, :2]], "text": ["a", "a"]})
    assert [v.shape[-1] for v in views["views"]] == [4, 2] and "text" in views


def test_hashes_are_equal_exactly_where_texts_are_and_never_change():
    hashes = hash_texts(["a river", "a forest", "a river", "A river", ""])
    assert hashes[0] == hashes[2] and len(set(hashes.tolist())) == 4 and (hashes >= 0).all()
    assert hashes[0].item() == 7342816731753166417  # ranks and runs must agree on it


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        ({"image": RAW, "text": ["a"]}, "2 images came with 1 texts"),
        ({"image": RAW, "text": "a river"}, "list of str, not str"),
        ({"text": torch.zeros(2, 3)}, "list of str, not Tensor"),
        ({"image": RAW, "text": ["a", 3]}, "must be a str, not int"),
        ({}, "tensor 'image'"),
    ],
)
def test_wrong_batches_of_texts_are_named(batch, text):
    with pytest.raises(DataError, match=text):
        record()(batch)


def test_the_record_holds_the_words_and_comes_back_from_json():
    again = PREPROCESSES.build(json.loads(json.dumps(record().record())))
    assert again == record() and again.tokenizer.words == ("a", "river", "forest")
    record().require_same(json.loads(json.dumps(record().record())), "a run")
    assert len({record(), again}) == 1


def test_differences_of_tokenizers_are_told_briefly():
    words = ["a", *(f"w{i}" for i in range(5000))]
    large = record(tokenizer={**WORDS, "words": words})
    with pytest.raises(CheckpointError, match="5001 entries there, 3 here; they part at entry 1: 'w0' there, 'river'"):
        record().require_same(large.record(), "a run")
    with pytest.raises(CheckpointError, match="context_length: 8 there, 9 here"):
        record(tokenizer={**WORDS, "context_length": 9}).require_same(record().record(), "a run")
    with pytest.raises(CheckpointError, match=r"tokenizer\.type"):
        record(tokenizer=dict(type="ByteTokenizer")).require_same(record().record(), "a run")
    with pytest.raises(CheckpointError, match="mean"):
        record(mean=(0.1, 0.1, 0.1)).require_same(record().record(), "a run")


def test_a_record_of_images_alone_takes_the_image_part_and_not_the_other_way():
    ImagePreprocess(size=4).require_same(record().record(), "a dual encoder")
    with pytest.raises(CheckpointError, match="tokenizer"):
        record().require_same(ImagePreprocess(size=4).record(), "an image encoder")


def test_a_record_without_a_tokenizer_is_refused():
    with pytest.raises(ConfigError, match="tokenizer"):
        ImageTextPreprocess(size=4)

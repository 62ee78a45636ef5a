"""Several data sets as one: what belongs together stays together, in any order."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from perception.datasets.captions import CaptionedImages
from perception.datasets.concatenated import Chained, Concatenated
from perception.datasets.digits import Digits
from perception.datasets.images import ArrayImages
from perception.errors import ConfigError, DataError
from perception.registry import DATASETS
from perception.text.words import WordTokenizer
from perception.validation import validate_config


def captioned(start, count, classes, labels, languages=("en",), size=4, sources=("one",), **options):
    """Images whose pixels all hold ``start + i``, with that number in every caption."""
    images = np.stack([np.full((3, size, size), start + i, dtype=np.uint8) for i in range(count)])
    captions = [[(lang, f"number {start + i} {lang}") for lang in languages] for i in range(count)]
    names = [f"{start + i}.png" for i in range(count)]
    return CaptionedImages(images, captions, names, classes, np.array(labels), sources, **options)


def both(**options):
    first = captioned(0, 3, ("river", "forest"), [0, 1, -1])
    second = captioned(10, 2, ("beach", "river"), [1, 0], ("en", "pt"), sources=("two", "one"))
    return Concatenated([first, second], **options)


def test_samples_come_in_the_order_asked_for_with_what_is_theirs():
    data = both()
    assert len(data) == 5 and data.starts.tolist() == [0, 3] and data.modality == "image"
    batch = data.__getitems__([4, 0, 3, 2])
    assert batch["image"][:, 0, 0, 0].tolist() == [11, 0, 10, 2]
    assert [pairs[-1] for pairs in batch["captions"]] == [
        ("pt", "number 11 pt"),
        ("en", "number 0 en"),
        ("pt", "number 10 pt"),
        ("en", "number 2 en"),
    ]
    assert batch["index"].tolist() == [4, 0, 3, 2]
    # river, forest, beach: beach is 0 in the second set and 2 here, river 1 there and 0 here, -1 stays.
    assert data.classes == ("river", "forest", "beach")
    assert batch["label"].tolist() == [2, 0, 0, -1]
    assert [data.names[i] for i in (4, 0, -1)] == ["11.png", "0.png", "11.png"]
    assert data.captioned and data.languages == ("en", "pt") and data.sources == ("one", "two")


def test_a_batch_of_one_member_and_a_copy_in_a_worker():
    data = pickle.loads(pickle.dumps(both()))
    assert data.__getitems__([3, 4])["image"][:, 0, 0, 0].tolist() == [10, 11]


def test_sets_without_labels_or_captions():
    unlabelled = ArrayImages(np.zeros((2, 3, 4, 4), dtype=np.uint8), None, ())
    labelled = ArrayImages(np.ones((2, 3, 4, 4), dtype=np.uint8), np.array([0, 1]), ("a", "b"))
    data = Concatenated([unlabelled, labelled])
    assert data.__getitems__([0, 3, 2])["label"].tolist() == [-1, 1, 0]
    assert not data.captioned and not hasattr(data, "captions") and data.sources == ("ArrayImages",)
    assert "label" not in Concatenated([unlabelled, unlabelled]).__getitems__([0])
    with pytest.raises(DataError, match=r"member 0 \(CaptionedImages\) gives 'captions', member 1"):
        Concatenated([captioned(0, 2, (), [-1, -1]), labelled]).__getitems__([0, 2])


def test_images_of_two_sizes_are_a_list_that_crops_take():
    parts = [captioned(0, 2, (), [-1, -1], size=s) for s in (4, 6)]
    batch = Concatenated(parts).__getitems__([2, 0])
    assert [tuple(image.shape) for image in batch["image"]] == [(3, 6, 6), (3, 4, 4)]
    crop = dict(type="MultiCrop", size=4, local_views=0, global_views=1)
    assert Concatenated(parts, transforms=[crop]).__getitems__([2, 0])["image"].shape == (2, 3, 4, 4)


def test_clips_of_two_sizes_leave_a_crop_in_one():
    sets = [dict(type="MovingDigits", count=3, size=32), dict(type="MovingDigits", count=2, size=48, task="turn")]
    crop = dict(type="ClipResizedCrop", size=16)
    data = Concatenated(sets, transforms=[crop])
    batch = data.__getitems__([4, 0, 3])
    assert data.modality == "video" and batch["video"].shape == (3, 3, 8, 16, 16) and (batch["label"] == -1).all()
    assert torch.equal(data.__getitems__([3])["video"], batch["video"][2:])
    sets[1] = dict(sets[1], frames=6)
    with pytest.raises(DataError, match="one length"):
        Concatenated(sets, transforms=[crop]).__getitems__([4, 0])


def test_augmentation_depends_on_the_place_in_the_whole_alone():
    crops = [dict(type="PickCaption"), dict(type="MultiCrop", size=4, local_size=2, local_views=1, brightness=0.5)]
    data = both(transforms=crops, seed=3)
    all_of_them, some = data.__getitems__([0, 1, 2, 3, 4]), data.__getitems__([4, 1])
    assert some["text"] == [all_of_them["text"][4], all_of_them["text"][1]]
    assert torch.equal(some["views"][0], all_of_them["views"][0][[4, 1]])


def test_members_that_do_not_belong_together_are_named():
    wide = ArrayImages(np.zeros((2, 3, 4, 4), dtype=np.uint16), None, ())
    with pytest.raises(DataError, match=r"torch.uint16 and torch.uint8"):
        Concatenated([ArrayImages(np.zeros((2, 3, 4, 4), dtype=np.uint8), None, ()), wide]).__getitems__([0, 2])
    for members, text in (
        ([], "at least one"),
        ([Digits("val"), Digits("val", transforms=[dict(type="RandomFlip")])], "datasets.1.transforms"),
        ([DATASETS.build(dict(type="DigitsGraph"))], "one batch"),
    ):
        with pytest.raises(ConfigError, match=text):
            Concatenated(members)


def test_bands_and_soft_labels_must_agree():
    class Banded(ArrayImages):
        def fetch(self, indices):
            return {**super().fetch(indices), "meta": {"bands": self.bands}}

    def banded(*bands):
        data = Banded(np.zeros((1, 2, 4, 4), dtype=np.uint8), None, ())
        data.bands = bands
        return data

    assert Concatenated([banded("B02", "B03")] * 2).__getitems__([0, 1])["meta"] == {"bands": ("B02", "B03")}
    with pytest.raises(DataError, match=r"differ in 'meta'.*B04"):
        Concatenated([banded("B02", "B03"), banded("B04", "B03")]).__getitems__([0, 1])

    def soft(*classes):
        return ArrayImages(np.zeros((1, 3, 4, 4), dtype=np.uint8), np.array([[1.0, 0.0]]), classes)

    assert Concatenated([soft("a", "b")] * 2).__getitems__([1])["label"].tolist() == [[1.0, 0.0]]
    with pytest.raises(DataError, match="the same classes in all members"):
        Concatenated([soft("a", "b"), soft("b", "a")]).__getitems__([1])


def test_labels_without_a_name_are_refused():
    nameless = ArrayImages(np.zeros((1, 3, 4, 4), dtype=np.uint8), np.array([2]), ())
    with pytest.raises(DataError, match="label 2 has no name among 0 classes"):
        Concatenated([nameless, captioned(0, 1, ("a",), [0])]).__getitems__([0])


def test_chained_sequences():
    whole = Chained([[1, 2], [], [3]])
    assert list(whole) == [1, 2, 3] and whole[-1] == 3 and whole[1:] == [2, 3] and len(whole) == 3
    with pytest.raises(IndexError):
        whole[3]


def test_a_tokenizer_is_fitted_to_all_captions():
    assert set(WordTokenizer(fit=both(), min_count=1).words) == {"number", "en", "pt", "0", "1", "2", "10", "11"}


def test_validation_looks_into_the_members_and_knows_whether_they_have_captions():
    digits, tiles = dict(type="Digits", split="train"), dict(type="LandCover", split="train", count=12)

    def faults(*members, protocol="Retrieval"):
        cfg = dict(
            model=dict(type="Pretrainer", backbone=dict(type="CLIP", model="RN50"), pretexts={}),
            evaluation=dict(
                test=dict(type="Concatenated", datasets=list(members)), protocols=dict(one=dict(type=protocol))
            ),
        )
        return {f.path: f.message for f in validate_config(cfg) if f.path.startswith("evaluation")}

    assert faults(tiles, tiles) == {}
    assert set(faults(tiles, digits)) == {"evaluation.test"}
    assert set(faults(tiles, dict(tiles, split="tset"))) == {"evaluation.test.datasets.1.split"}
    assert set(faults(dict(tiles, transforms=[dict(type="RandomFlip")]))) == {"evaluation.test.datasets.0.transforms"}
    assert "evaluation.test.datasets.0.type" in faults(dict(type="LandCovr"))

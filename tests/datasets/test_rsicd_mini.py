import hashlib
import json
import os

import cv2
import numpy as np
import pytest
import torch

from perception.datasets.class_names import LANGUAGES, read_class_names
from perception.datasets.rsicd_mini import MEAN, STD, RSICDMini
from perception.errors import ConfigError, DataError

needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/remote_sensing")


@pytest.fixture(scope="module")
def train():
    return RSICDMini("train")


@needs_data
def test_splits_have_their_published_sizes_and_statistics(train):
    assert len(train) == 1200 and train.images.shape == (1200, 3, 64, 64)
    assert np.bincount(train.labels).tolist() == [40] * 30 and len(train.classes) == 30
    pixels = train.images / 255
    np.testing.assert_allclose(pixels.mean((0, 2, 3)), MEAN, atol=1e-4)
    np.testing.assert_allclose(pixels.std((0, 2, 3)), STD, atol=1e-4)
    val, test = RSICDMini("val", size=16), RSICDMini("test", size=16)
    assert np.bincount(val.labels).tolist() == [4] * 30
    assert len(test) == 1093 and (test.labels == -1).sum() == 66
    assert {len(texts) for texts in test.captions} == {5}
    texts = [text for captions in test.captions for _, text in captions]
    assert len(texts) == 5465 and len(set(texts)) == 3331  # figures of the data's README
    assert len(set(test.names)) == 1093


@needs_data
def test_a_batch_is_raw(train):
    batch = train.fetch(np.array([7, 3]))
    assert batch["image"].shape == (2, 3, 64, 64) and batch["image"].dtype == torch.uint8
    assert batch["captions"] == [train.captions[7], train.captions[3]]
    assert batch["label"].tolist() == [train.labels[7], train.labels[3]] and batch["index"].tolist() == [7, 3]
    assert train.languages == ("en",) and train.sources == ("RSICD",)


@needs_data
def test_images_are_area_averages_of_the_files(train):
    path = os.path.join(os.environ["PERCEPTION_DATA"], "remote_sensing", "rsicd_mini", "images", train.names[5])
    pixels = cv2.imread(path)[..., ::-1].astype(np.float64)  # (112, 112, 3)
    edges = np.linspace(0, 112, 65)  # weight of pixel j in output i = overlap of [j, j+1] with [1.75 i, 1.75 (i+1)]
    j = np.arange(112)
    overlap = np.clip(np.minimum(j + 1, edges[1:, None]) - np.maximum(j, edges[:-1, None]), 0, None) / 1.75
    expected = np.einsum("ab,bcd,ec->dae", overlap, pixels, overlap)
    assert np.abs(train.images[5] - expected).max() <= 0.51


@needs_data
def test_class_names_in_ten_languages():
    data = RSICDMini("test", size=8, languages=LANGUAGES, captions="class_names")
    assert len(data) == 1093 - 66 and (data.labels >= 0).all() and data.languages == LANGUAGES
    names = read_class_names("rsicd30")
    first = dict(data.captions[0])
    assert list(first) == list(LANGUAGES)
    assert first["de"] == "ein Satellitenbild: {}.".format(names.names["de"][data.labels[0]])
    assert names.classes == data.classes and len(names.prompts("zh")) == 30


@needs_data
def test_wrong_class_name_requests_are_named():
    with pytest.raises(DataError, match="no language 'sv'"):
        read_class_names("eurosat", ["sv"])
    with pytest.raises(DataError, match=r"only of \['eurosat', 'rsicd30'\]"):
        read_class_names("rsicd")


@pytest.mark.parametrize(
    ("cfg", "text"),
    [
        (dict(split="training"), "Did you mean 'train'"),
        (dict(size=0), "must be positive"),
        (dict(captions="class_name"), "nearest is 'class_names'"),
        (dict(languages=["de"]), "class_names' has ten"),
        (dict(languages=[], captions="class_names"), "must be some of en, pt"),
    ],
)
def test_faults_of_an_rsicd_config(cfg, text):
    with pytest.raises(ConfigError, match=text):
        RSICDMini(**cfg)


def test_damaged_files_of_rsicd_mini_are_named(tmp_path):
    folder = tmp_path / "rsicd_mini"
    (folder / "images").mkdir(parents=True)
    with pytest.raises(DataError, match=r"captions.json' cannot be read"):
        RSICDMini(root=str(tmp_path))
    (folder / "captions.json").write_text("{")
    with pytest.raises(DataError, match=r"captions.json' is no JSON"):
        RSICDMini(root=str(tmp_path))
    entry = dict(filename="a.jpg", split="train", class_name="beach", captions=["sea ."])
    (folder / "captions.json").write_text(json.dumps(dict(classes=["beach"], images=[entry])))
    with pytest.raises(DataError, match=r"a.jpg' cannot be read"):
        RSICDMini(root=str(tmp_path))
    (folder / "images" / "a.jpg").write_bytes(cv2.imencode(".jpg", np.zeros((9, 9, 3), np.uint8))[1].tobytes()[:-2])
    with pytest.raises(DataError, match=r"a.jpg' is a truncated JPEG"):
        RSICDMini(root=str(tmp_path))
    whole = cv2.imencode(".jpg", np.full((9, 9, 3), 50, np.uint8))[1].tobytes()
    (folder / "images" / "a.jpg").write_bytes(whole)
    assert len(RSICDMini(root=str(tmp_path))) == 1
    content = dict(classes=["beach"], images=[entry | dict(sha256=hashlib.sha256(whole).hexdigest())])
    (folder / "captions.json").write_text(json.dumps(content))
    assert len(RSICDMini(root=str(tmp_path))) == 1
    (folder / "images" / "a.jpg").write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])  # decoders take it
    with pytest.raises(DataError, match=r"a.jpg' differs from its SHA-256 checksum"):
        RSICDMini(root=str(tmp_path))

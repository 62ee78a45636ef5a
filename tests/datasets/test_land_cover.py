import collections

import numpy as np
import pytest
import torch

from perception.datasets.land_cover import COUNTS, MEAN, STD, LandCover, draw
from perception.datasets.land_cover_canvas import Canvas, edge
from perception.datasets.land_cover_texts import _PHRASES, CLASSES, LANGUAGES, TEMPLATES, caption, phrases
from perception.errors import ConfigError


@pytest.fixture(scope="module")
def train():
    return LandCover("train")


@pytest.fixture(scope="module")
def test():
    return LandCover("test")


def test_every_combination_is_equally_frequent(train, test):
    assert len(train) == COUNTS["train"] == 1296 and len(test) == 432 and len(LandCover("val", size=8)) == 216
    for data, times in ((train, 12), (test, 4)):
        counts = collections.Counter(zip(data.labels.tolist(), *data.properties.T.tolist(), strict=True))
        assert len(counts) == 108 and set(counts.values()) == {times}
    pixels = train.images / 255
    np.testing.assert_allclose(pixels.mean((0, 2, 3)), MEAN, atol=2e-3)
    np.testing.assert_allclose(pixels.std((0, 2, 3)), STD, atol=2e-3)


def test_tiles_depend_on_the_split_and_the_seed_of_the_scenes_alone(test):
    draw.cache_clear()
    again = LandCover("test", seed=5)
    assert np.array_equal(again.images, test.images) and again.captions == test.captions
    fifty = LandCover("test", count=50)
    assert np.array_equal(fifty.images, test.images[:50]) and fifty.captions == test.captions[:50]
    other, val = LandCover("test", count=24, tile_seed=1), LandCover("val", count=24)
    for images in (other.images, val.images):
        assert (images != test.images[:24]).mean() > 0.5


def test_no_two_tiles_are_alike_in_or_across_splits(train, test):
    rows = np.concatenate([train.images, test.images]).reshape(len(train) + len(test), -1)
    small = torch.from_numpy(rows).view(-1, 3, 64, 64).float()
    small = torch.nn.functional.avg_pool2d(small, 8).flatten(1)
    distance = torch.cdist(small, small) + 1e6 * torch.eye(len(small))
    assert distance.min() > 10  # root of a sum over 192 averages of 0..255


def test_scenes_are_the_same_at_every_size():
    large, small = LandCover("val", size=64, count=36), LandCover("val", size=32, count=36)
    reduced = torch.nn.functional.avg_pool2d(torch.from_numpy(large.images.copy()).float(), 2)
    difference = (reduced - torch.from_numpy(small.images.copy()).float()).abs().mean()
    assert difference < 14  # half of what two scenes of a class differ by


def test_captions_in_each_language_say_what_the_image_shows(test):
    assert test.languages == LANGUAGES and len(LANGUAGES) >= 5
    for i in range(0, len(test), 7):
        name, (first, second) = CLASSES[test.labels[i]], test.properties[i]
        by_language = collections.defaultdict(list)
        for language, text in test.captions[i]:
            by_language[language].append(text)
        assert list(by_language) == list(LANGUAGES)
        for language, (both, one, two) in by_language.items():
            scene, firsts, seconds = phrases(name, language)
            assert all(scene in text for text in (both, one, two))
            assert firsts[first] in both and seconds[second] in both
            assert firsts[first] in one and seconds[second] not in one
            assert seconds[second] in two and firsts[first] not in two


def test_phrases_are_whole_and_distinct():
    for name, by_language in _PHRASES.items():
        assert tuple(by_language) == LANGUAGES
        for language in LANGUAGES:
            scene, firsts, seconds = phrases(name, language)
            assert len({*firsts, *seconds}) == 6 and all([scene, *firsts, *seconds])
    for language in LANGUAGES:
        assert len({phrases(name, language)[0] for name in CLASSES}) == 12
        assert len(TEMPLATES[language]) == 4 and all(text.count("{}") == 1 for text in TEMPLATES[language])
    assert caption("river", "en", 0, 0, 0) == "a satellite image of a river between meadows, with a bridge"
    assert caption("river", "de", None, 0, 2) == "auf dem Bild ist ein Fluss mit einer Brücke zu sehen"
    assert caption("river", "zh", 0, 0, 0) == "一张卫星图像：草地之间的有桥的河流"


def test_batches_labels_and_class_names(test):
    batch = test.fetch(np.array([3, 14]))
    assert batch["image"].shape == (2, 3, 64, 64) and batch["image"].dtype == torch.uint8
    assert batch["label"].tolist() == [3, 2] and test.classes == CLASSES and test.sources == ("LandCover",)
    batch["image"][:] = 0
    assert test.images.any()  # the tiles are shared by all data sets of a process
    two = LandCover("val", size=8, languages=["de", "en"])
    assert two.languages == ("de", "en") and two.class_names["de"][1] == "ein Fluss"
    assert two.class_templates["en"].format(two.class_names["en"][1]) == "a satellite image of a river"


def test_the_canvas_paints_antialiased_shapes():
    canvas = Canvas(2, 64, np.random.default_rng(0))
    canvas.paint(np.ones((2, 64, 64), np.float32), (10.0, 20.0, 30.0))
    canvas.paint(edge(10.0 - np.hypot(canvas.u, canvas.v)), (110.0, 120.0, 130.0))
    cover = (canvas.rgb[..., 0] - 10) / 100
    area = cover.sum((1, 2))
    np.testing.assert_allclose(area, np.pi * 100, rtol=0.01)
    noise = canvas.noise(8, 3)
    assert np.abs(noise).max() <= 1 and noise.std() > 0.1
    cells = canvas.cells(8.0, 16.0)
    np.testing.assert_allclose(cells.box(2.0, 3.0).sum((1, 2)) / 4096, 24 / 128, rtol=0.08)


@pytest.mark.parametrize(
    ("cfg", "text"),
    [
        (dict(split="all"), "not a split"),
        (dict(size=4), "at least 8"),
        (dict(count=0), "must be positive"),
        (dict(languages=["en", "nl"]), "must be some of en, pt, es, fr, de, zh"),
        (dict(tile_seed=-1), "must not be negative"),
    ],
)
def test_faults_of_a_land_cover_config(cfg, text):
    with pytest.raises(ConfigError, match=text):
        LandCover(**cfg)

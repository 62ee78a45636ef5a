import collections

import numpy as np
import pytest

from perception.errors import ConfigError, DataError
from perception.registry import TRANSFORMS
from perception.transforms.captions import DropWords, PickCaption, apply_text_form
from perception.transforms.randomness import SampleRandom

FOUR = [("en", "one"), ("en", "two"), ("en", "three"), ("de", "eins")]


def pick(transform, captions, count=4000, seed=0, epoch=0):
    """``count`` draws for images that all have the same captions."""
    batch = transform({"captions": [captions] * count, "index": None}, SampleRandom(seed, epoch, np.arange(count)))
    return batch["language"], batch["text"]


def test_one_text_per_image_takes_the_place_of_the_captions():
    batch = PickCaption()({"captions": [[("en", "a")], [("pt", "b")]]}, SampleRandom(0, 0, np.arange(2)))
    assert batch == {"text": ["a", "b"], "language": ["en", "pt"]}


def test_languages_are_equally_likely_then_captions_of_the_language():
    language, text = pick(PickCaption(), FOUR)
    share = {key: value / 4000 for key, value in collections.Counter(text).items()}
    assert share == pytest.approx({"one": 1 / 6, "two": 1 / 6, "three": 1 / 6, "eins": 1 / 2}, abs=0.03)
    assert all((name == "de") == (chosen == "eins") for name, chosen in zip(language, text, strict=True))


@pytest.mark.parametrize("p_en", [0.0, 0.8, 1.0])
def test_english_has_its_probability_and_the_others_share_the_rest(p_en):
    language, _ = pick(PickCaption("english", p_en), [*FOUR, ("fr", "un")])
    share = {name: language.count(name) / 4000 for name in ("en", "de", "fr")}
    assert share == pytest.approx({"en": p_en, "de": (1 - p_en) / 2, "fr": (1 - p_en) / 2}, abs=0.03)


def test_an_image_takes_the_languages_that_it_has():
    assert set(pick(PickCaption("english", 1.0), [("de", "eins"), ("fr", "un")], 200)[0]) == {"de", "fr"}
    assert set(pick(PickCaption("english", 0.0), [("en", "one")], 20)[0]) == {"en"}
    assert set(pick(PickCaption(languages=["de"]), FOUR, 20)[1]) == {"eins"}


def test_the_choice_is_a_function_of_seed_epoch_and_index():
    whole = PickCaption()({"captions": [FOUR] * 50}, SampleRandom(3, 2, np.arange(50)))["text"]
    odd = PickCaption()({"captions": [FOUR] * 25}, SampleRandom(3, 2, np.arange(1, 50, 2)))["text"]
    assert odd == whole[1::2]
    assert pick(PickCaption(), FOUR, 50, seed=3, epoch=2)[1] == whole
    assert pick(PickCaption(), FOUR, 50, seed=3, epoch=3)[1] != whole
    assert pick(PickCaption(), FOUR, 50, seed=4, epoch=2)[1] != whole


def test_images_without_a_caption_to_choose_are_named():
    with pytest.raises(DataError, match="image at index 7 has no caption"):
        PickCaption()({"captions": [FOUR, []]}, SampleRandom(0, 0, np.array([3, 7])))
    with pytest.raises(DataError, match=r"index 3 has captions in \['de', 'en'\], none in \['ko'\]"):
        PickCaption(languages=["ko"])({"captions": [FOUR]}, SampleRandom(0, 0, np.array([3])))


@pytest.mark.parametrize(
    ("cfg", "text"),
    [
        (dict(mode="englisch"), "nearest is 'english'"),
        (dict(mode="english"), "needs a probability"),
        (dict(mode="english", p_en=1.5), "needs a probability"),
        (dict(p_en=0.5), "no meaning without mode='english'"),
        (dict(languages=[]), "at least one language"),
    ],
)
def test_faults_of_a_config(cfg, text):
    with pytest.raises(ValueError, match=text):
        TRANSFORMS.build(dict(type="PickCaption", **cfg))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("as_is", "Many Planes are in an Airport ."),
        ("capitalize", "Many planes are in an airport ."),
        ("no_stop", "Many Planes are in an Airport"),
        ("spaced_stop", "many planes are in an airport ."),
    ],
)
def test_text_forms_of_the_protocols(form, expected):
    assert apply_text_form("Many Planes are in an Airport .", form) == expected
    if form in ("no_stop", "spaced_stop"):
        assert apply_text_form("Many Planes are in an Airport", form) == expected


def test_words_are_left_out_at_the_stated_rate():
    """The share of a text is uniform in [0, 0.6], so 30 % of the words go; their order stays; one word always does."""
    words = [f"w{i}" for i in range(20)]
    text = DropWords(0.6)({"text": [" ".join(words)] * 2000}, SampleRandom(0, 0, np.arange(2000)))["text"]
    kept = [t.split() for t in text]
    assert np.mean([1 - len(k) / 20 for k in kept]) == pytest.approx(0.3, abs=0.01)
    assert all(k == sorted(k, key=words.index) for k in kept)
    counts = collections.Counter(word for k in kept for word in k)
    assert min(counts.values()) > 1300 and max(counts.values()) < 1500  # every place alike
    one = DropWords(0.99)({"text": ["forest"] * 500, "index": None}, SampleRandom(0, 0, np.arange(500)))
    assert one["text"] == ["forest"] * 500
    assert DropWords(0.0)({"text": ["a b  c"]}, SampleRandom(0, 0, np.arange(1)))["text"] == ["a b c"]


def test_words_left_out_are_those_of_the_sample():
    def drop(indices):
        return DropWords(0.8)({"text": ["a b c d e f g h"] * len(indices)}, SampleRandom(1, 2, np.array(indices)))

    assert drop([3, 5])["text"] == [drop([3])["text"][0], drop([5])["text"][0]]


def test_words_need_a_text():
    with pytest.raises(DataError, match="behind PickCaption"):
        DropWords()({"captions": []}, SampleRandom(0, 0, np.arange(0)))
    with pytest.raises(ConfigError, match="share"):
        DropWords(1.0)

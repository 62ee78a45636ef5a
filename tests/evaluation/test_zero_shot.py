"""Class names, prompt sets and the three ways of averaging."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from perception.errors import DataError
from perception.evaluation.class_texts import class_texts
from perception.evaluation.prompts import PROMPTS, PromptSet, clean_name, fill
from perception.evaluation.protocol import EvaluationError
from perception.evaluation.zero_shot import class_scores, class_vectors, confusion, label_ranks, per_class, top_k

DATA = Path(os.environ.get("PERCEPTION_DATA", "/missing")) / "remote_sensing"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs $PERCEPTION_DATA/remote_sensing")


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("AnnualCrop", "annual crop"),
        ("SeaLake", "sea lake"),
        ("baseball_diamond", "baseball diamond"),
        ("Roads/Highways", "roads highways"),
        ("ISSStation2North", "iss station2 north"),
        ("dense  residential", "dense residential"),
        ("農地", "農地"),
    ],
)
def test_class_names_become_words(name, cleaned):
    assert clean_name(name) == cleaned


def test_georsclip_does_not_split_names():
    assert clean_name("AnnualCrop", split=False) == "annualcrop"


def test_prompt_sets_of_the_public_code():
    sizes = {name: len(prompts.templates) for name, prompts in PROMPTS.items()}
    assert sizes == {
        "remoteclip": 1,
        "skyscript": 2,
        "clip-eurosat": 3,
        "clip-rsicd": 1,
        "vt-rsbs": 1,
        "georsclip": 105,
        "aerial-photo": 1,
    }
    assert all(text.count("{}") == 1 for prompts in PROMPTS.values() for text in prompts.templates)
    assert PROMPTS["remoteclip"].templates == ("a satellite photo of {}.",)
    assert PROMPTS["skyscript"].templates == ("a satellite photo of {}.", "a satellite image of {}")
    assert PROMPTS["clip-eurosat"].templates == (
        "a centered satellite photo of {}.",
        "a centered satellite photo of a {}.",
        "a centered satellite photo of the {}.",
    )
    assert PROMPTS["clip-rsicd"].templates == ("An aerial photograph of {}",)
    assert PROMPTS["vt-rsbs"].templates == ("a remote sensing image of a {}",)


def test_georsclips_105_prompts():
    templates = PROMPTS["georsclip"].templates
    assert len(set(templates)) == 105
    for noun, first in (("remote sensing image", 0), ("aerial image", 35), ("satellite image", 70)):
        assert all(noun in text for text in templates[first : first + 35])
        article = "an" if noun == "aerial image" else "a"
        # Some of the published list, by their place in it.
        for place, text in {
            0: f"{article} {noun} of many {{}}.",
            2: f"{article} {noun} of the {{}}.",
            3: f"{article} {noun} of the hard to see {{}}.",
            5: f"a low resolution {noun} of the {{}}.",
            8: f"a bad {noun} of a {{}}.",
            15: f"a close-up {noun} of the {{}}.",
            20: f"a jpeg corrupted {noun} of a {{}}.",
            24: f"a good {noun} of a {{}}.",
            25: f"{article} {noun} of the large {{}}.",
            34: f"{article} {noun} of a cool {{}}.",
        }.items():
            assert templates[first + place] == text


def test_clips_names_of_eurosat():
    classes = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop"]
    names = [PROMPTS["clip-eurosat"].name(clean_name(name)) for name in [*classes, "Residential", "River", "SeaLake"]]
    assert names == [
        "annual crop land",
        "forest",
        "brushland or shrubland",
        "highway or road",
        "industrial buildings or commercial buildings",
        "pasture land",
        "permanent crop land",
        "residential buildings or homes or apartments",
        "river",
        "lake or sea",
    ]
    assert PROMPTS["remoteclip"].name("forest") == "forest"
    assert fill(["{} of {x}"], ["a {}"]) == [["a {} of {x}"]]  # braces in a name or a template are left alone


def test_one_template_gives_the_same_classifier_by_both_rules():
    torch.manual_seed(0)
    texts = torch.randn(7, 1, 16) * torch.rand(7, 1, 1)
    torch.testing.assert_close(class_vectors(texts), class_vectors(texts, "raw"))
    torch.testing.assert_close(class_vectors(texts), normalize(texts[:, 0], dim=1))
    images = torch.randn(50, 16)
    ranks = [class_scores(images, texts, rule).argsort(1) for rule in ("normalised", "raw", "softmax")]
    assert torch.equal(ranks[0], ranks[1]) and torch.equal(ranks[0], ranks[2])


def test_templates_of_different_length_tell_the_rules_apart():
    texts = torch.tensor([[[10.0, 0], [0, 1]], [[1, 0], [0, 1]]])
    by_length, raw = class_vectors(texts), class_vectors(texts, "raw")
    root = 0.5**0.5
    torch.testing.assert_close(by_length, torch.tensor([[root, root], [root, root]]))
    torch.testing.assert_close(raw, normalize(torch.tensor([[5.0, 0.5], [0.5, 0.5]]), dim=1))
    for vectors in (by_length, raw, class_vectors(torch.randn(9, 4, 5)), class_vectors(torch.randn(9, 4, 5), "raw")):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))


def test_softmax_rule_by_hand():
    torch.manual_seed(1)
    images, texts = torch.randn(6, 4), torch.randn(3, 2, 4)
    found = class_scores(images, texts, "softmax", chunk=4)
    for row, image in zip(found, images, strict=True):
        cosines = [float(torch.cosine_similarity(image, text, dim=0)) for own in texts for text in own]
        shares = torch.tensor(cosines).double().exp()
        shares /= shares.sum()
        wanted = torch.stack([shares[0] + shares[1], shares[2] + shares[3], shares[4] + shares[5]])
        torch.testing.assert_close(row.double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.sum(1), torch.ones(6))


def test_scores_are_cosines_whatever_the_chunk():
    torch.manual_seed(2)
    images, texts = torch.randn(11, 4), torch.randn(3, 2, 4)
    wanted = torch.stack([torch.cosine_similarity(image, class_vectors(texts), dim=1) for image in images])
    for chunk in (1, 4, 100):
        torch.testing.assert_close(class_scores(images, texts, chunk=chunk), wanted)
    with pytest.raises(ValueError, match="average must be one of"):
        class_scores(images, texts, "mean")


def test_top_k_gives_equal_scores_to_the_lower_class():
    scores = torch.tensor([[0.1, 0.9, 0.3], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0.2, 0.1, 0.2]])
    labels = torch.tensor([1, 0, 2, 2])
    ranks = label_ranks(scores, labels)
    assert ranks.tolist() == [0, 0, 2, 1]
    assert [top_k(ranks, k) for k in (1, 2, 3)] == [0.5, 0.75, 1.0]
    assert per_class(ranks, labels, ("a", "b", "c", "d")) == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert confusion(scores, labels).tolist() == [[1, 0, 0], [0, 1, 0], [2, 0, 0]]
    torch.manual_seed(3)
    scores, labels = torch.randn(100, 8), torch.randint(0, 8, (100,))
    for k in (1, 3, 5):
        hit = (scores.topk(k, dim=1).indices == labels[:, None]).any(1)
        assert top_k(label_ranks(scores, labels), k) == pytest.approx(float(hit.double().mean()))
    assert int(confusion(scores, labels).diagonal().sum()) == int((label_ranks(scores, labels) == 0).sum())


TABLE = {"b": {"en": "bee", "de": "Biene"}, "a": {"en": "ant", "de": "Ameise"}, "c": {"en": "cat", "de": "Katze"}}


def test_names_come_in_the_order_of_the_data_set(tmp_path):
    wanted = {"en": ("ant", "bee"), "de": ("Ameise", "Biene")}
    assert class_texts(TABLE, ("a", "b"), "Beasts").names == wanted
    file = tmp_path / "names.json"
    content = {"languages": ["en", "de"], "template": {"en": "a {}", "de": "ein {}"}, "other": {"x": {"en": "y"}}}
    file.write_text(json.dumps({**content, "beasts": TABLE, "note": "none"}))
    found = class_texts(str(file), ("a", "b"), "Beasts")
    assert found.names == wanted and found.templates == content["template"]
    assert class_texts({"en": ["one", "two"]}, ("a", "b"), "Beasts").names == {"en": ("one", "two")}
    assert class_texts(["one", "two"], ("a", "b"), "Beasts").names == {"en": ("one", "two")}
    with pytest.raises(DataError, match=r"none of the tables .*names all of Beasts"):
        class_texts(str(file), ("a", "zebra"), "Beasts")
    with pytest.raises(EvaluationError, match="no names of the class 'zebra'"):
        class_texts(TABLE, ("a", "zebra"), "Beasts")
    with pytest.raises(EvaluationError, match="3 names in 'en' for the 2 classes"):
        class_texts({"en": ["one", "two", "three"]}, ("a", "b"), "Beasts")
    with pytest.raises(EvaluationError, match="no class names of Beasts in 'fr', only in en, de"):
        found.need("fr", "Beasts")


@needs_data
def test_shipped_names_in_ten_languages():
    classes = ("SeaLake", "AnnualCrop")  # any order
    found = class_texts("eurosat", classes, "EuroSAT")
    assert len(found.names) == len(found.templates) == 10
    assert found.names["en"][1] == "annual crop land" and found.names["de"][1] == "einjährige Ackerkulturen"
    from_file = class_texts(str(DATA / "class_names_10_languages.json"), classes, "EuroSAT")
    assert from_file == found


def test_a_prompt_set_is_data():
    assert PromptSet(("x {}",)).average == "normalised"
    assert {prompts.average for prompts in PROMPTS.values()} == {"normalised", "raw", "softmax"}

"""Chance and ceilings: exact counts of public files, and enumeration."""

import itertools
import json
import os
from pathlib import Path

import pytest
import torch

from perception.evaluation.retrieval import owner_pairs, ranks_of_scores
from perception.evaluation.retrieval_bounds import chance_closed_form, chance_ranks, duplicate_ceiling, recalls

DATA = Path(os.environ.get("PERCEPTION_DATA", "/missing")) / "remote_sensing"


def captions_of_test(name: str) -> list[list[str]]:
    if name == "rsicd":
        entries = json.loads((DATA / "rsicd_mini" / "captions.json").read_text())["images"]
    else:
        entries = json.loads((DATA / "captions_text_only" / f"{name}.json").read_text())
    return [entry["captions"] for entry in entries if entry["split"] == "test"]


@pytest.mark.skipif(not DATA.is_dir(), reason="needs $PERCEPTION_DATA/remote_sensing")
@pytest.mark.parametrize(
    ("name", "images", "texts", "distinct", "at_1", "at_5"),
    [
        ("rsicd", 1093, 5465, 3331, 92.6, 99.2),
        ("rsitmd", 452, 2260, 2099, 99.8, 100.0),
        ("ucm_captions", 210, 1050, 378, 38.0, 84.6),
        ("sydney_captions", 58, 290, 136, 50.7, 93.8),
    ],
)
def test_ceilings_of_the_public_test_splits(name, images, texts, distinct, at_1, at_5):
    captions = captions_of_test(name)
    assert len(captions) == images
    assert (sum(map(len, captions)), len({text for own in captions for text in own})) == (texts, distinct)
    of_images, of_texts = duplicate_ceiling(captions)
    assert round(100 * of_texts.recall(1, "expected"), 1) == at_1
    assert round(100 * of_texts.recall(5, "expected"), 1) == at_5
    assert of_images.recall(1) <= of_images.recall(5) <= of_images.recall(10) <= 1


def test_ceilings_by_enumeration_of_all_orders_of_the_distinct_texts():
    captions = [["a", "a", "b"], ["a", "c"], ["b", "c", "c"], ["c"], []]
    owner = [image for image, own in enumerate(captions) for _ in own]
    texts = [text for own in captions for text in own]
    distinct = sorted(set(texts))
    of_images, of_texts = duplicate_ceiling(captions)
    for k in (1, 2, 3):
        best = []
        for image in range(4):
            found = []
            for order in itertools.permutations(range(3)):
                # Every model scores the distinct texts in some order; equal texts tie.
                scores = torch.tensor([[float(order[distinct.index(text)])] for text in texts]).expand(-1, 5)
                ranks, _ = ranks_of_scores(scores, owner_pairs(torch.tensor(owner)))
                found.append(float(ranks.hits(k, "expected")[image]))
            best.append(max(found))
        assert of_images.recall(k) == pytest.approx(sum(best) / 4)
    # a: 2 images, b: 2, c: 3; texts a a b a c b c c c.
    assert of_texts.recall(1, "expected") == pytest.approx((5 / 2 + 4 / 3) / 9)
    assert of_texts.recall(2, "expected") == pytest.approx((5 + 4 * 2 / 3) / 9)
    with pytest.raises(ValueError, match="at least one text"):
        duplicate_ceiling([[], []])


def test_chance_is_exact_for_any_number_of_captions():
    torch.manual_seed(0)
    owner = torch.arange(12).repeat_interleave(torch.tensor([1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5]))
    pairs = owner_pairs(owner)
    chance = recalls(chance_ranks(pairs, len(owner), 12), ties="expected")
    runs = [recalls(ranks_of_scores(torch.rand(len(owner), 12), pairs)) for _ in range(400)]
    for name, value in chance.items():
        assert sum(run[name] for run in runs) / 400 == pytest.approx(value, abs=0.02), name
    assert chance["t2i R@5"] == pytest.approx(5 / 12)


def test_random_scores_are_near_the_closed_form():
    torch.manual_seed(0)
    images, texts = 300, 1500
    owner = owner_pairs(torch.arange(images).repeat_interleave(5))
    runs = [recalls(ranks_of_scores(torch.rand(texts, images), owner))["mean recall"] for _ in range(60)]
    closed = chance_closed_form(texts, images)
    exact = recalls(chance_ranks(owner, texts, images), ties="expected")["mean recall"]
    assert sum(runs) / 60 == pytest.approx(closed, abs=0.002)
    assert 0 < exact - closed < 1e-4
    assert 100 * chance_closed_form(5465, 1093) == pytest.approx(0.49, abs=0.005)  # the README of the data


def test_further_ks_do_not_enter_the_mean():
    pairs = owner_pairs(torch.arange(60))
    both = chance_ranks(pairs, 60, 60)
    plain, more = recalls(both, ties="expected"), recalls(both, (1, 50), "expected")
    assert plain["mean recall"] == more["mean recall"] == pytest.approx((1 + 5 + 10) / 60 / 3)
    assert list(more) == ["i2t R@1", "i2t R@50", "t2i R@1", "t2i R@50", "mean recall"]

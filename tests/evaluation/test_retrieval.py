"""Retrieval against loops that follow the definition, and the invariants of the protocol."""

import subprocess
import sys
from math import comb

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from perception.evaluation import retrieval
from perception.evaluation.retrieval import (
    Ranks,
    miss_chance,
    owner_pairs,
    ranks_of_scores,
    retrieval_ranks,
    true_recall,
)
from perception.evaluation.retrieval_bounds import recalls
from perception.evaluation.score_tiles import distinct_rows

KS = (1, 5, 10)


def owners(images: int, seed: int = 0) -> torch.Tensor:
    """Owner of every text, 1 to 7 texts an image, in random order."""
    random = np.random.default_rng(seed)
    counts = random.integers(1, 8, images)
    return torch.from_numpy(random.permutation(np.repeat(np.arange(images), counts)))


def by_definition(scores: torch.Tensor, pairs: torch.Tensor) -> list[list[tuple[int, int, int, int]]]:
    """(above, tied, own, query) of both directions, entry by entry."""
    positive = {(int(text), int(image)) for text, image in pairs.tolist()}
    found = []
    for matrix, mine in (
        (scores.T, lambda q, g: (g, q) in positive),
        (scores, lambda q, g: (q, g) in positive),
    ):
        rows = []
        for q, row in enumerate(matrix.tolist()):
            own = [value for g, value in enumerate(row) if mine(q, g)]
            foreign = [value for g, value in enumerate(row) if not mine(q, g)]
            if own:
                best = max(own)
                tied, level = sum(v == best for v in foreign), sum(v == best for v in own)
                rows.append((sum(v > best for v in foreign), tied, level, q))
        found.append(rows)
    return found


def listed(ranks: Ranks) -> list[tuple[int, int, int, int]]:
    return list(zip(*(getattr(ranks, n).tolist() for n in ("above", "tied", "own", "query")), strict=True))


def expected_hit(above: int, tied: int, own: int, k: int) -> float:
    free = k - above
    if free <= 0:
        return 0.0
    return 1 - comb(tied, free) / comb(tied + own, free) if free <= tied + own else 1.0


@pytest.mark.parametrize("seed", range(8))
def test_equal_to_a_loop_with_many_ties_and_any_number_of_owners(seed):
    random = torch.Generator().manual_seed(seed)
    images, texts = int(torch.randint(1, 12, (), generator=random)), int(torch.randint(1, 30, (), generator=random))
    scores = torch.randint(0, 5, (texts, images), generator=random)
    # Any relation: texts of several images, images of several texts, some without, some pairs named twice.
    pairs = torch.stack([torch.randint(0, size, (texts,), generator=random) for size in (texts, images)], dim=1)
    wanted = by_definition(scores, pairs)
    for tile in (1, 2, 5, 100):
        found = ranks_of_scores(scores, pairs, tile)
        assert [listed(ranks) for ranks in found] == wanted
    for ranks, rows in zip(found, wanted, strict=True):
        for k in (1, 2, 5, 40):
            assert ranks.recall(k) == pytest.approx(np.mean([a < k for a, _, _, _ in rows]))
            assert ranks.recall(k, "pessimistic") == pytest.approx(np.mean([a + t < k for a, t, _, _ in rows]))
            assert ranks.recall(k, "expected") == pytest.approx(
                np.mean([expected_hit(a, t, o, k) for a, t, o, _ in rows])
            )


def test_expected_ties_are_those_of_random_orders():
    scores = torch.tensor([[2.0, 1, 1, 1], [1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1]])
    pairs = owner_pairs(torch.tensor([1, 1, 3, 0]))
    both = ranks_of_scores(scores, pairs)
    random = np.random.default_rng(0)
    for ranks, matrix, own in zip(
        both,
        (scores.T.numpy(), scores.numpy()),
        ({1: {0, 1}, 3: {2}, 0: {3}}, {0: {1}, 1: {1}, 2: {3}, 3: {0}}),
        strict=True,
    ):
        for k in (1, 2, 3):
            hits = []
            for _ in range(4000):
                order = random.permutation(matrix.shape[1])
                for query in ranks.query.tolist():
                    best = order[np.argsort(-matrix[query][order], kind="stable")][:k]
                    hits.append(bool(own[query] & set(best.tolist())))
            assert ranks.recall(k, "expected") == pytest.approx(np.mean(hits), abs=0.015)


def test_rank_form_is_top_k_without_ties():
    torch.manual_seed(0)
    owner = owners(40)
    scores = torch.randn(len(owner), 40)
    of_images, of_texts = ranks_of_scores(scores, owner_pairs(owner))
    for k in KS:
        text_hit = (scores.topk(k, dim=1).indices == owner[:, None]).any(1)
        image_hit = (owner[scores.T.topk(k, dim=1).indices] == torch.arange(40)[:, None]).any(1)
        for ties in retrieval.TIES:
            assert of_texts.recall(k, ties) == pytest.approx(float(text_hit.double().mean()))
            assert of_images.recall(k, ties) == pytest.approx(float(image_hit.double().mean()))


@pytest.mark.parametrize("tile", [2, 7, 64, 1000])
def test_chunked_equals_unchunked(tile):
    torch.manual_seed(1)
    owner = owners(30)
    images, texts = torch.randn(30, 16), torch.randn(len(owner), 16)
    texts[10], texts[11], images[5] = texts[50], texts[50] * 0, images[7]
    whole = retrieval_ranks(texts, images, owner_pairs(owner), tile=10**6)
    scores = normalize(texts, dim=1) @ normalize(images, dim=1).T
    scores[10], scores[:, 5] = scores[50], scores[:, 7]  # equal rows, whatever the multiplication does with them
    assert [listed(r) for r in whole] == by_definition(scores, owner_pairs(owner))
    assert list(map(listed, retrieval_ranks(texts, images, owner_pairs(owner), tile=tile))) == list(map(listed, whole))


def test_texts_held_once_are_as_if_repeated():
    torch.manual_seed(2)
    owner = owners(30)
    features, rows = torch.randn(9, 8), torch.randint(0, 9, (len(owner),))
    images = torch.randn(30, 8)
    once = retrieval_ranks(features, images, owner_pairs(owner), rows, tile=7)
    assert list(map(listed, once)) == list(map(listed, retrieval_ranks(features[rows], images, owner_pairs(owner))))
    assert any(ranks.tied.any() for ranks in once)
    assert true_recall(features, images, owner_pairs(owner), KS, rows) == true_recall(
        features[rows], images, owner_pairs(owner), KS, tile=7
    )


def test_perfect_reversed_and_constant_scores():
    owner = owners(30)
    perfect = (owner[:, None] == torch.arange(30)).double()
    # 0 for the reversed ones, because each query has ten foreign entries that come before.
    for scores, optimistic, pessimistic in ((perfect, 1, 1), (-perfect, 0, 0), (perfect * 0, 1, 0)):
        both = ranks_of_scores(scores, owner_pairs(owner))
        for ties, value in (("optimistic", optimistic), ("pessimistic", pessimistic)):
            assert set(recalls(both, KS, ties).values()) == {value}


def test_collapsed_features_tie_exactly():
    images, texts = torch.full((30, 7), 0.3), torch.full((150, 7), 0.1)
    both = retrieval_ranks(texts, images, owner_pairs(torch.arange(30).repeat_interleave(5)), tile=11)
    assert set(recalls(both, KS, "pessimistic").values()) == {0} and set(recalls(both).values()) == {1}
    assert recalls(both, KS, "expected")["t2i R@1"] == pytest.approx(1 / 30)


def test_monotone_in_k_under_any_increasing_map_and_in_any_order():
    torch.manual_seed(3)
    owner = owners(40, seed=4)
    scores = torch.randn(len(owner), 40).round(decimals=1).double()  # rounded: with ties
    pairs = owner_pairs(owner)
    for ties in retrieval.TIES:
        plain = recalls(ranks_of_scores(scores, pairs), KS, ties)
        assert all(plain[f"{d} R@1"] <= plain[f"{d} R@5"] <= plain[f"{d} R@10"] for d in ("i2t", "t2i"))
        assert recalls(ranks_of_scores((3 * scores).exp() - 7, pairs), KS, ties) == plain
        images = torch.randperm(40)
        place = images.argsort()
        shuffled = recalls(ranks_of_scores(scores[:, images], owner_pairs(place[owner])), KS, ties)
        assert shuffled == pytest.approx(plain)
        texts = torch.randperm(len(owner))
        assert recalls(ranks_of_scores(scores[texts], owner_pairs(owner[texts])), KS, ties) == pytest.approx(plain)


def test_an_image_without_captions_is_no_query_but_stays_in_the_gallery():
    # Image 1 has no text and scores highest for the text of image 0.
    scores = torch.tensor([[0.5, 0.9, 0.1], [0.2, 0.1, 0.8]])
    of_images, of_texts = ranks_of_scores(scores, owner_pairs(torch.tensor([0, 2])))
    assert of_images.query.tolist() == [0, 2] and of_images.recall(1) == 1.0
    assert of_texts.above.tolist() == [1, 0] and of_texts.recall(1) == 0.5


def test_median_ranks():
    ranks = Ranks(*(torch.tensor(v) for v in ([0, 4, 9], [0, 2, 0], [1, 1, 1], [0, 1, 2])))
    assert (ranks.median(), ranks.median("pessimistic"), ranks.median("expected")) == (5, 7, 6)


def test_chance_of_missing_is_hypergeometric():
    for foreign in range(5):
        for own in range(1, 4):
            for draws in range(-1, 9):
                total = foreign + own
                wanted = 1.0 if draws <= 0 else comb(foreign, draws) / comb(total, draws) if draws <= total else 0.0
                found = miss_chance(torch.tensor([foreign]), torch.tensor([own]), draws)
                assert float(found) == pytest.approx(wanted)


def test_true_recall_is_the_share_found_and_not_recall():
    torch.manual_seed(5)
    owner = owners(25)
    images, texts = torch.randn(25, 6), torch.randn(len(owner), 6)
    scores = normalize(images, dim=1) @ normalize(texts, dim=1).T
    found = true_recall(texts, images, owner_pairs(owner), KS, tile=9)
    for k in KS:
        top = owner[scores.topk(k, dim=1).indices] == torch.arange(25)[:, None]
        assert found[f"i2t true R@{k}"] == pytest.approx(float((top.sum(1) / owner.bincount()).mean()))
        assert found[f"t2i true R@{k}"] == pytest.approx(
            float((scores.T.topk(k, dim=1).indices == owner[:, None]).any(1).double().mean())
        )
    # All alike: k of M texts are drawn at random, whoever owns them.
    same = true_recall(texts * 0 + 1, images * 0 + 1, owner_pairs(owner), (5,))
    assert same["i2t true R@5"] == pytest.approx(5 / len(owner)) and same["t2i true R@5"] == pytest.approx(5 / 25)


def test_distinct_rows_are_grouped_in_order():
    x = torch.tensor([[1.0, 2], [0.0, 0], [1, 2], [-0.0, 0], [3, 4]])
    first, group, weight = distinct_rows(x)
    assert first.tolist() == [0, 1, 4] and group.tolist() == [0, 1, 0, 1, 2] and weight.tolist() == [2, 2, 1]


def test_rows_of_one_hash_that_differ_stand_alone(monkeypatch):
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.full((2,), -1))  # the hash becomes a sum
    first, group, weight = distinct_rows(torch.tensor([[1.0, 2], [2, 1], [1, 2], [5, 5]]))
    assert first.tolist() == [0, 1, 3] and group.tolist() == [0, 1, 0, 2] and weight.tolist() == [2, 1, 1]


@pytest.mark.parametrize(
    ("texts", "images", "pairs", "message"),
    [
        (torch.zeros(3, 4), torch.zeros(2, 5), [[0, 0]], r"\(3, 4\) and \(2, 5\)"),
        (torch.zeros(3, 4), torch.zeros(2, 4), [[0, 2]], "beyond"),
        (torch.zeros(3, 4), torch.zeros(2, 4), [[-1, 0]], "beyond"),
        (torch.zeros(3, 4), torch.zeros(2, 4), torch.zeros(0, 2), "at least one"),
        (torch.full((3, 4), float("nan")), torch.zeros(2, 4), [[0, 0]], "finite"),
    ],
)
def test_what_cannot_be_ranked_is_refused(texts, images, pairs, message):
    with pytest.raises(ValueError, match=message):
        retrieval_ranks(texts, images, torch.as_tensor(pairs))
    with pytest.raises(ValueError, match="ties must be one of"):
        Ranks(*(torch.zeros(1, dtype=torch.int64) for _ in range(4))).recall(1, "lucky")


# The matrix of the larger case would take 720 MB.
MEMORY = """
import resource, torch
from perception.evaluation.retrieval import owner_pairs, retrieval_ranks
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
torch.manual_seed(0)
for texts in (5000, 30000):
    images = texts // 5
    features = torch.randn(texts, 16), torch.randn(images, 16)
    pairs = owner_pairs(torch.arange(images).repeat_interleave(5))
    before = peak()
    retrieval_ranks(*features, pairs)
    print(peak() - before)
"""


def test_memory_does_not_grow_with_the_matrix():
    result = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    small, large = map(float, result.stdout.split())
    # A few tiles, code loaded on the way, and then what grows with the number of queries.
    assert small < 80 and large < 40, (small, large)

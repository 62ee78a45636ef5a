"""Every loss against loops written from its formula, in float64, and the properties that follow from the formulas."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from perception.losses.supervised_contrast import LOSSES, contrast_pairs, supervised_contrast
from perception.losses.view_contrast import view_contrast_loss

BATCH, DIM = 8, 5
LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3, 1])  # 2 and 3 occur once
GROUPS = torch.tensor([0, 0, 1, 1, 1, 0, 0, 1])
VIEWS = (1, 2, 3)


def features(views=1, batch=BATCH, seed=0):
    return torch.randn(batch, views, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Loops:
    """Embeddings one by one: (view, sample), their vectors, and who is whose positive."""

    def __init__(self, z, labels, groups=None, across=False, anchors="all"):
        unit = F.normalize(z, dim=-1)
        self.items = [(v, i) for v in range(z.shape[1]) for i in range(len(z))]
        self.z = {(v, i): unit[i, v] for v, i in self.items}
        self.labels, self.groups = labels.tolist(), None if groups is None else groups.tolist()
        self.across = across
        self.anchors = [item for item in self.items if anchors == "all" or item[0] == 0]

    def cos(self, a, b):
        return float(self.z[a] @ self.z[b])

    def distance(self, a, b):
        return float((self.z[a] - self.z[b]).norm())

    def same(self, a, b):
        return self.labels[a[1]] == self.labels[b[1]]

    def aligned(self, a, b):
        return self.groups[a[1]] == self.groups[b[1]]

    def positives(self, a):
        found = [b for b in self.items if b != a and self.same(a, b)]
        return [b for b in found if not (self.across and self.aligned(a, b))]

    def negatives(self, a):
        return [b for b in self.items if not self.same(a, b)]

    def average(self, term, keep="drop"):
        kept = [a for a in self.anchors if self.positives(a) or keep == "reference"]
        return sum(term(a) if self.positives(a) else 0.0 for a in kept) / len(kept)


def supcon(loops, t, base=None, keep="drop"):
    def term(a):
        below = math.log(sum(math.exp(loops.cos(a, b) / t) for b in loops.items if b != a))
        positives = loops.positives(a)
        return -sum(loops.cos(a, p) / t - below for p in positives) / len(positives)

    return loops.average(term, keep) * (t / (base or t))


def eps_supcon(loops, t, epsilon):
    def term(a):
        positives, negatives = loops.positives(a), loops.negatives(a)
        below = math.exp(-epsilon) * sum(math.exp(loops.cos(a, p) / t) for p in positives)
        below += sum(math.exp(loops.cos(a, n) / t) for n in negatives)
        return -sum(loops.cos(a, p) / t - math.log(below) for p in positives) / len(positives)

    return loops.average(term)


def eps_supinfonce(loops, t, epsilon, form):
    omega = math.exp(-epsilon)

    def term(a):
        up = [math.exp(loops.cos(a, p) / t) for p in loops.positives(a)]
        down = sum(math.exp(loops.cos(a, n) / t) for n in loops.negatives(a))
        if form == "out":
            return -sum(math.log(u / (omega * u + down)) for u in up) / len(up)
        return -math.log(sum(up) / (omega / len(up) * sum(up) + down))

    return loops.average(term)


def fairkl(loops, k):
    sets = {key: [] for key in ("pa", "pc", "na", "nc")}
    filled = {key: [] for key in sets}
    for a, b in itertools.product(loops.items, repeat=2):
        own = ("p" if loops.same(a, b) else "n") + ("a" if loops.aligned(a, b) else "c")
        sets[own].append(loops.cos(a, b))
        for key in sets:
            filled[key].append(loops.cos(a, b) if key == own else 0.0)
    mu = {key: sum(values) / max(len(values), 1) for key, values in sets.items()}
    sigma = {key: float(torch.tensor(values, dtype=torch.float64).std()) for key, values in filled.items()}
    means = (mu["pc"] - mu["pa"]) ** 2 + (mu["na"] - mu["nc"]) ** 2
    spreads = (sigma["pa"] - sigma["pc"]) ** 2 + (sigma["na"] - sigma["nc"]) ** 2
    return means + k * spreads - mu["pc"] + mu["na"]


def multi_similarity(loops, alpha, beta, base, miner=None):
    total = 0.0
    for a in loops.anchors:
        up = [loops.cos(a, p) for p in loops.positives(a)]
        down = [loops.cos(a, n) for n in loops.negatives(a)]
        if miner is not None:
            hard_up = [s for s in up if down and s - miner < max(down)]
            down = [s for s in down if up and s + miner > min(up)]
            up = hard_up
        total += math.log(1 + sum(math.exp(-alpha * (s - base)) for s in up)) / alpha
        total += math.log(1 + sum(math.exp(beta * (s - base)) for s in down)) / beta
    return total / len(loops.anchors)


def triplet(loops, margin):
    terms = [
        loops.distance(a, p) - loops.distance(a, n) + margin
        for a in loops.anchors
        for p in loops.positives(a)
        for n in loops.negatives(a)
    ]
    above = [term for term in terms if term > 0]
    return sum(above) / len(above)


def margins(loops, near, far):
    up = [loops.distance(a, p) - near for a in loops.anchors for p in loops.positives(a)]
    down = [far - loops.distance(a, n) for a in loops.anchors for n in loops.negatives(a)]
    up, down = ([term for term in terms if term > 0] for terms in (up, down))
    return sum(up) / max(len(up), 1) + sum(down) / max(len(down), 1)


def close(name, z, expected, **options):
    labels = options.pop("labels", LABELS)
    found = supervised_contrast(name, z, labels, **options)
    assert float(found) == pytest.approx(expected, rel=1e-9)
    assert float(supervised_contrast(name, z.float(), labels, **options)) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("t", [0.07, 0.1, 0.5])
def test_supcon_is_its_formula(views, t):
    z = features(views)
    for anchors in ("all", "one"):
        loops = Loops(z, LABELS, anchors=anchors)
        close("supcon", z, supcon(loops, t), temperature=t, anchors=anchors)
    loops = Loops(z, LABELS)
    close("supcon", z, supcon(loops, t, 0.07), temperature=t, base_temperature=0.07)
    close("supcon", z, supcon(loops, t, keep="reference"), temperature=t, without_positives="reference")
    if views == 1:  # six of eight have another of their class
        drop, kept = supcon(loops, t), supcon(loops, t, keep="reference")
        assert kept == pytest.approx(drop * 6 / 8)


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("epsilon", [0.0, 0.25, 1.5])
def test_eps_losses_are_their_formulas(views, epsilon):
    z = features(views)
    loops = Loops(z, LABELS)
    for t in (0.1, 0.6):
        close("eps-supcon", z, eps_supcon(loops, t, epsilon), temperature=t, epsilon=epsilon)
        for form in ("out", "in"):
            expected = eps_supinfonce(loops, t, epsilon, form)
            close("eps-supinfonce", z, expected, temperature=t, epsilon=epsilon, form=form)


@pytest.mark.parametrize("views", VIEWS)
def test_the_other_losses_are_their_formulas(views):
    z = features(views)
    loops = Loops(z, LABELS, GROUPS)
    for k in (0.0, 1.0, 3.0):
        close("fairkl", z, fairkl(loops, k), groups=GROUPS, spread_weight=k)
    for miner in (None, 0.1, 0.4):
        close("multi-similarity", z, multi_similarity(loops, 2, 50, 0.5, miner), miner=miner)
        close(
            "multi-similarity", z, multi_similarity(loops, 1, 10, 0.2, miner), alpha=1, beta=10, base=0.2, miner=miner
        )
    for margin in (0.05, 0.5):
        close("triplet", z, triplet(loops, margin), margin=margin)
    close("contrastive", z, margins(loops, 0.0, 1.0))
    close("contrastive", z, margins(loops, 0.9, 1.3), positive_margin=0.9, negative_margin=1.3)


def test_known_values():
    # Two pairs in opposite directions: an anchor has a positive at cosine 1 and two negatives at -1.
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    below = math.log(math.exp(2) + 2 * math.exp(-2))
    close("supcon", z, below - 2, labels=labels, temperature=0.5)
    close("eps-supinfonce", z, math.log(math.exp(1) + 2 * math.exp(-2)) - 2, labels=labels, temperature=0.5, epsilon=1)
    close("multi-similarity", z, math.log(1 + math.exp(-1)) / 2 + math.log(1 + 2 * math.exp(-75)) / 50, labels=labels)
    close("triplet", z, 0.0, labels=labels)
    close("contrastive", z, 0.0, labels=labels)
    # All 8 positive entries are 1 and all 8 negative ones -1; one group: nothing conflicts.
    sigma = math.sqrt((8 - 16 * 0.25) / 15)
    expected = 1 + 1 + 2 * sigma**2 + 0 - 1
    close("fairkl", z, expected, labels=labels, groups=torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("name", ["supcon", "eps-supcon", "eps-supinfonce"])
def test_positives_can_be_of_other_groups_alone(name):
    z = features(2)
    loops = Loops(z, LABELS, GROUPS, across=True)
    # What is left out is in no denominator either.
    if name == "eps-supinfonce":
        close(
            name,
            z,
            eps_supinfonce(loops, 0.2, 0.3, "out"),
            temperature=0.2,
            epsilon=0.3,
            groups=GROUPS,
            across_groups=True,
        )
    else:
        close(name, z, eps_supcon(loops, 0.2, 0.0), temperature=0.2, groups=GROUPS, across_groups=True)


OPTIONS = {"fairkl": {"groups": GROUPS}}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("views", VIEWS)
def test_rotations_and_the_order_of_the_batch_do_not_matter(name, views):
    z, options = features(views), OPTIONS.get(name, {})
    loss = supervised_contrast(name, z, LABELS, **options)
    turn = torch.linalg.qr(torch.randn(DIM, DIM, dtype=torch.float64))[0]
    torch.testing.assert_close(supervised_contrast(name, z @ turn, LABELS, **options), loss)
    order = torch.randperm(BATCH)
    moved = {key: value[order] for key, value in options.items()}
    torch.testing.assert_close(supervised_contrast(name, z[order], LABELS[order], **moved), loss)
    torch.testing.assert_close(supervised_contrast(name, z.flip(1), LABELS, **options), loss)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("views", VIEWS)
def test_a_mask_of_equal_labels_gives_the_identical_number(name, views):
    z, options = features(views), OPTIONS.get(name, {})
    mask = LABELS[:, None] == LABELS[None]
    assert supervised_contrast(name, z, mask=mask, **options) == supervised_contrast(name, z, LABELS, **options)


def test_a_mask_need_not_be_symmetric():
    z = features()
    mask = torch.zeros(BATCH, BATCH, dtype=torch.bool)
    mask[2, 5] = True
    s = F.normalize(z[:, 0], dim=1) @ F.normalize(z[2, 0], dim=0) / 0.3
    expected = torch.cat([s[:2], s[3:]]).logsumexp(0) - s[5]
    torch.testing.assert_close(supervised_contrast("supcon", z, mask=mask, temperature=0.3), expected)


def test_unique_labels_with_two_views_are_simclr():
    z = features(2)
    unit = F.normalize(z, dim=-1).transpose(0, 1)
    expected = view_contrast_loss(unit, 0.2)
    torch.testing.assert_close(supervised_contrast("supcon", z, torch.arange(BATCH), temperature=0.2), expected)
    torch.testing.assert_close(supervised_contrast("supcon", z, temperature=0.2), expected)
    # The views of one sample laid side by side would be another loss.
    mixed = z.reshape(2, BATCH, DIM).transpose(0, 1)
    assert abs(supervised_contrast("supcon", mixed, temperature=0.2) - expected) > 1e-2


def test_eps_lowers_the_loss_and_is_a_margin_of_eps_t():
    z = features(2)
    for name, form in (("eps-supcon", {}), ("eps-supinfonce", {"form": "out"}), ("eps-supinfonce", {"form": "in"})):
        losses = [float(supervised_contrast(name, z, LABELS, epsilon=e, **form)) for e in (-1.0, 0.0, 0.3, 1.0, 4.0)]
        assert losses == sorted(losses, reverse=True) and len(set(losses)) == 5
    torch.testing.assert_close(
        supervised_contrast("eps-supcon", z, LABELS), supervised_contrast("supcon", z, LABELS), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("views", VIEWS)
def test_a_high_temperature_gives_the_logarithm_of_the_others(views):
    loss = supervised_contrast("supcon", features(views), LABELS, temperature=1e6)
    assert float(loss) == pytest.approx(math.log(BATCH * views - 1), abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("views", VIEWS)
def test_gradients_are_orthogonal_to_features_that_are_normalised(name, views):
    z = features(views).requires_grad_()
    (gradient,) = torch.autograd.grad(supervised_contrast(name, z, LABELS, **OPTIONS.get(name, {})), z)
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(
        (gradient * z).sum(-1), torch.zeros(BATCH, views, dtype=torch.float64), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    z = features(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: supervised_contrast(name, x, LABELS, **OPTIONS.get(name, {})), z)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("labels", [LABELS, torch.arange(BATCH), torch.zeros(BATCH, dtype=torch.int64)])
def test_finite_in_bfloat16_with_singletons_and_with_one_class(name, labels):
    z = (1e-3 * features().float()).to(torch.bfloat16).requires_grad_()
    groups = {"groups": torch.zeros(BATCH, dtype=torch.int64)} if name == "fairkl" else {}
    cold = {"temperature": 0.005} if "sup" in name else {}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = supervised_contrast(name, z, labels, **groups, **cold)
        inside = contrast_pairs(z, labels).cosines
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and z.grad.isfinite().all()
    exact = F.normalize(z.detach().float()[:, 0], dim=1)
    torch.testing.assert_close(inside, exact @ exact.T)


@pytest.mark.parametrize("name", LOSSES)
def test_equal_embeddings_give_finite_gradients(name):
    z = torch.ones(4, 2, DIM, requires_grad=True)
    options = {"groups": torch.tensor([0, 1, 0, 1])} if name == "fairkl" else {}
    supervised_contrast(name, z, torch.tensor([0, 0, 1, 1]), **options).backward()
    assert z.grad.isfinite().all()


def test_no_positive_at_all_is_zero_with_a_gradient():
    for name in ("supcon", "eps-supcon", "eps-supinfonce", "triplet"):
        z = features().requires_grad_()
        loss = supervised_contrast(name, z, torch.arange(BATCH))
        loss.backward()
        assert loss.item() == 0.0 and not z.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_unlabelled_samples_count_for_nothing(name):
    z, options = features(2), {"groups": GROUPS} if name == "fairkl" else {}
    labels = LABELS.clone()
    labels[[1, 6]] = -1
    kept = labels >= 0
    less = {key: value[kept] for key, value in options.items()}
    torch.testing.assert_close(
        supervised_contrast(name, z, labels, **options), supervised_contrast(name, z[kept], labels[kept], **less)
    )


def test_features_of_length_one_can_be_taken_as_they_are():
    z = features(2)
    unit = F.normalize(z, dim=-1)
    assert supervised_contrast("supcon", unit, LABELS, normalize=False) == pytest.approx(
        float(supervised_contrast("supcon", 3 * z, LABELS)), rel=1e-12
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "at least two"),
        ({"labels": LABELS, "mask": torch.ones(BATCH, BATCH)}, "not both"),
        ({"labels": LABELS[:3]}, "one number a sample"),
        ({"mask": torch.ones(2, 2)}, "mask"),
        ({"labels": LABELS, "anchors": "two"}, "all, one"),
        ({"labels": LABELS, "across_groups": True}, "need groups"),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        contrast_pairs(features(), **options)

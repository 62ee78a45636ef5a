r"""Losses that draw embeddings of one class together and push those of others apart.

With :math:`s_{ij} = z_i \cdot z_j / T`, positives P(i) of the anchor i (other embeddings of its class), negatives N(i)
(those of other classes) and :math:`\omega = e^{-\epsilon}`:

* SupCon ("Supervised Contrastive Learning", Khosla et al., 2020, the form "out"):
  :math:`-\frac{T}{T_{base}} \frac1{|P|} \sum_p [s_{ip} - \log \sum_{a \ne i} e^{s_{ia}}]`. Without labels P(i) are the
  other views of the sample, and the loss is SimCLR's NT-Xent.
* eps-SupInfoNCE, eps-SupCon and FairKL ("Unbiased Supervised Contrastive Learning", Barbano et al., 2023).
* Multi-similarity ("Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning", Wang et al., 2019).
* Triplet and contrastive margins on Euclidean distances.

``contrast_pairs`` says once which embeddings belong together; every loss takes what it gives. With several ranks a rank
holds its own anchors against the embeddings of all; all ranks return the loss of the whole batch, and the MEAN over the
ranks of their gradients is its gradient, as DistributedDataParallel takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.losses.contrastive import gather_with_grad, rank_and_world, sum_over_ranks

ANCHORS = ("all", "one")
WITHOUT_POSITIVES = ("drop", "reference")
FORMS = ("out", "in")


@dataclass(frozen=True)
class Pairs:
    """n anchors against m embeddings, of all views and ranks.

    Attributes:
        rows: (n, D) anchors, float32 or float64.
        columns: (m, D) embeddings.
        cosines: (n, m) their products.
        positive: (n, m) bool: of one class, not the anchor itself.
        negative: (n, m) bool: of another class.
        same: (n, m) bool: of one class, the anchor itself and whatever mining leaves out included.
        aligned: (n, m) bool: of one bias group, or None where no groups are known.
        known: (n, m) bool: both labelled.
        world: ranks that share the batch.
    """

    rows: Tensor
    columns: Tensor
    cosines: Tensor
    positive: Tensor
    negative: Tensor
    same: Tensor
    aligned: Tensor | None
    known: Tensor
    world: int

    def total(self, partial: Tensor) -> Tensor:
        """A sum over this rank's anchors as that over all ranks'."""
        return sum_over_ranks(partial, self.world)

    def mean(self, values: Tensor, counted: Tensor) -> Tensor:
        """Mean of ``values`` where ``counted``, over all ranks; 0, with gradients of 0, where nothing is."""
        number = self.total(counted.sum().to(values.dtype)).detach()
        return self.total(values.masked_fill(~counted, 0.0).sum()) / number.clamp_min(1.0)

    def anchor_mean(self, values: Tensor, without_positives: str) -> Tensor:
        """Mean over anchors of ``values`` (n,), which counts for nothing where an anchor has no positive.

        ``drop`` leaves such anchors out of the mean; ``reference`` keeps them in it, as zeros.
        """
        if without_positives not in WITHOUT_POSITIVES:
            raise ValueError(f"without_positives = {without_positives!r}: not one of {', '.join(WITHOUT_POSITIVES)}")
        has = self.positive.any(dim=1)
        if without_positives == "drop":
            return self.mean(values, has)
        return self.mean(values.masked_fill(~has, 0.0), self.known.any(dim=1))


def contrast_pairs(
    features: Tensor,
    labels: Tensor | None = None,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
    anchors: str = "all",
    across_groups: bool = False,
    normalize: bool = True,
    gather: bool = False,
) -> Pairs:
    """Which embeddings of a batch belong together.

    Args:
        features: (B, V, D) embeddings of V views of B samples, or (B, D) of one.
        labels: (B,) int64 classes. Samples below 0 are unlabelled: they are neither anchors nor compared with.
        mask: instead of labels (B, B), true or 1 where j is a positive of i; it need not be symmetric. With ``gather``
            (B, W B), against the samples of all ranks. Neither: the views of a sample belong together.
        groups: (B,) int64 bias of each sample, such as its speaker.
        anchors: ``all`` views are anchors, or the first ``one`` alone; all are compared with either way.
        across_groups: positives are of another group than the anchor; those of its own are left out.
        normalize: to length 1 first. The losses are meant for embeddings of that length.
        gather: compare with the embeddings of all ranks, which must hold batches of one size.

    Raises:
        ValueError: shapes that do not fit; both labels and mask; one view without either; no groups to mine across.
    """
    if features.ndim == 2:
        features = features[:, None]
    if features.ndim != 3:
        raise ValueError(f"features {tuple(features.shape)} must be embeddings (B, V, D) or (B, D)")
    batch, views, _ = features.shape
    if anchors not in ANCHORS:
        raise ValueError(f"anchors = {anchors!r}: not one of {', '.join(ANCHORS)}")
    if labels is not None and mask is not None:
        raise ValueError("give labels or a mask, not both")
    if labels is None and mask is None and views < 2:
        raise ValueError("without labels and mask only views of one sample belong together: at least two are needed")
    for name, value in (("labels", labels), ("groups", groups)):
        if value is not None and value.shape != (batch,):
            raise ValueError(f"{name} {tuple(value.shape)} for {batch} samples: one number a sample")
    if across_groups and groups is None:
        raise ValueError("positives across groups need groups")
    rank, world = rank_and_world() if gather else (0, 1)
    if mask is not None and mask.shape != (batch, batch * world):
        raise ValueError(f"mask {tuple(mask.shape)} for {batch} samples of {batch * world}")

    with torch.autocast(features.device.type, enabled=False):
        z = features.to(torch.promote_types(features.dtype, torch.float32))
        z = F.normalize(z, dim=-1) if normalize else z
        columns = _view_major(gather_with_grad(z) if world > 1 else z)  # (V W B, D)
        used = views if anchors == "all" else 1
        rows = _view_major(z[:, :used])
        cosines = rows @ columns.T

    def spread(between: Tensor) -> Tensor:
        """(B, W B) between samples -> (n, m) between views."""
        return between.repeat(used, views)

    def alike(numbers: Tensor) -> Tensor:
        whole = gather_with_grad(numbers) if world > 1 else numbers
        return spread(numbers[:, None] == whole[None])

    sample = torch.arange(batch, device=z.device)
    numbers = sample + rank * batch
    same = spread(mask.bool()) if mask is not None else alike(labels if labels is not None else numbers)
    known = torch.ones_like(same)
    if labels is not None:
        whole = gather_with_grad(labels) if world > 1 else labels
        known = spread((labels >= 0)[:, None] & (whole >= 0)[None])
    columns_own = (torch.arange(used, device=z.device)[:, None] * batch * world + numbers).view(-1, 1)
    own = torch.zeros_like(same).scatter_(1, columns_own, True)
    aligned = None if groups is None else alike(groups)
    positive = same & known & ~own
    if across_groups and aligned is not None:
        positive = positive & ~aligned
    return Pairs(rows, columns, cosines, positive, ~same & known & ~own, (same | own) & known, aligned, known, world)


def supcon_loss(
    pairs: Pairs, temperature: float = 0.1, base_temperature: float | None = None, without_positives: str = "drop"
) -> Tensor:
    """SupCon with the logarithm inside the sum over positives, float32.

    Args:
        pairs: of ``contrast_pairs``.
        temperature: T.
        base_temperature: the loss is multiplied by T over it, which moves no optimum; None takes T. The paper's code
            has 0.07.
        without_positives: ``drop`` leaves anchors without a positive out of the mean; ``reference`` counts them as 0.
    """
    s = pairs.cosines / temperature
    below = _logsumexp(s, pairs.positive | pairs.negative)
    values = below - _mean_over(s, pairs.positive)
    return pairs.anchor_mean(values, without_positives) * _scale(temperature, base_temperature)


def eps_supcon_loss(
    pairs: Pairs,
    temperature: float = 0.1,
    epsilon: float = 0.0,
    base_temperature: float | None = None,
    without_positives: str = "drop",
) -> Tensor:
    """SupCon whose denominator counts positives e^-eps times; SupCon for eps = 0. Arguments as there."""
    s = pairs.cosines / temperature
    below = torch.logaddexp(_logsumexp(s, pairs.positive) - epsilon, _logsumexp(s, pairs.negative))
    values = below - _mean_over(s, pairs.positive)
    return pairs.anchor_mean(values, without_positives) * _scale(temperature, base_temperature)


def eps_supinfonce_loss(
    pairs: Pairs,
    temperature: float = 0.1,
    epsilon: float = 0.0,
    form: str = "out",
    without_positives: str = "drop",
) -> Tensor:
    """InfoNCE of every positive against the negatives alone, with the margin eps T between their cosines.

    Args:
        pairs: of ``contrast_pairs``.
        temperature: T.
        epsilon: of the margin; the larger, the smaller the loss.
        form: ``out``: the mean over positives of the logarithms; ``in``: the logarithm of their sum, over their mean.
        without_positives: see ``supcon_loss``.
    """
    if form not in FORMS:
        raise ValueError(f"form = {form!r}: not one of {', '.join(FORMS)}")
    s = pairs.cosines / temperature
    negatives = _logsumexp(s, pairs.negative)
    if form == "out":
        values = _mean_over(torch.logaddexp(s - epsilon, negatives[:, None]) - s, pairs.positive)
    else:
        together = _logsumexp(s, pairs.positive)
        count = pairs.positive.sum(dim=1).clamp_min(1).to(s.dtype)
        values = torch.logaddexp(together - epsilon - count.log(), negatives) - together
    return pairs.anchor_mean(values, without_positives)


def fairkl_loss(pairs: Pairs, spread_weight: float = 1.0) -> Tensor:
    """What tells pairs of one bias group from pairs of two: means and spreads of their cosines.

    Each of the four sets (positive or negative, aligned or conflicting; the diagonal is positive and aligned) is a
    matrix that is zero outside it. Its mean is over the set's entries, its deviation over ALL entries, as in the public
    code. That code also subtracts the mean of conflicting positives and adds that of aligned negatives.

    Args:
        pairs: of ``contrast_pairs`` with groups.
        spread_weight: k, of the squared differences of deviations.

    Raises:
        ValueError: the pairs have no groups.
    """
    if pairs.aligned is None:
        raise ValueError("FairKL needs the groups of the samples, such as their speakers")
    s, aligned, same = pairs.cosines, pairs.aligned, pairs.same
    other = ~same & pairs.known
    sets = {"pa": same & aligned, "pc": same & ~aligned, "na": other & aligned, "nc": other & ~aligned}
    size = pairs.total(pairs.known.sum().to(s.dtype)).detach().clamp_min(2.0)
    mean, deviation = {}, {}
    for name, chosen in sets.items():
        filled = s.masked_fill(~chosen, 0.0)
        total = pairs.total(filled.sum())
        mean[name] = total / pairs.total(chosen.sum().to(s.dtype)).detach().clamp_min(1.0)
        # Squares about the mean do not change with it to first order: it needs no gradient.
        centred = (filled - (total / size).detach()).masked_fill(~pairs.known, 0.0)
        variance = pairs.total(centred.square().sum()) / (size - 1.0)
        # The root of 0 has no finite slope; an empty set has no spread to compare.
        deviation[name] = torch.where(variance > 0, variance.clamp_min(torch.finfo(s.dtype).tiny).sqrt(), 0.0)
    means = (mean["pc"] - mean["pa"]).square() + (mean["na"] - mean["nc"]).square()
    spreads = (deviation["pa"] - deviation["pc"]).square() + (deviation["na"] - deviation["nc"]).square()
    return means + spread_weight * spreads - mean["pc"] + mean["na"]


def multi_similarity_loss(
    pairs: Pairs, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, miner: float | None = None
) -> Tensor:
    """Multi-similarity, averaged over all anchors, those without a term included.

    Args:
        pairs: of ``contrast_pairs``.
        alpha: of positives.
        beta: of negatives.
        base: cosine lambda where a pair starts to count.
        miner: margin: negatives count where they are likelier than the least likely positive less the margin, positives
            where they are less likely than the likeliest negative plus it; the paper has 0.1. None: all pairs.
    """
    s, positive, negative = pairs.cosines, pairs.positive, pairs.negative
    if miner is not None:
        with torch.no_grad():
            least = s.masked_fill(~positive, float("inf")).amin(dim=1, keepdim=True)
            most = s.masked_fill(~negative, float("-inf")).amax(dim=1, keepdim=True)
            positive, negative = positive & (s - miner < most), negative & (s + miner > least)
    drawn = _log_one_plus(-alpha * (s - base), positive) / alpha
    pushed = _log_one_plus(beta * (s - base), negative) / beta
    return pairs.mean(drawn + pushed, pairs.known.any(dim=1))


def triplet_loss(pairs: Pairs, margin: float = 0.05) -> Tensor:
    """Margin between Euclidean distances to a positive and to a negative: the mean over triplets above zero.

    Args:
        pairs: of ``contrast_pairs``.
        margin: m of ``max(0, d_ap - d_an + m)``.
    """
    distance = _distances(pairs)
    anchor, place = pairs.positive.nonzero(as_tuple=True)
    terms = (distance[anchor, place, None] - distance[anchor] + margin).clamp_min(0.0)  # (positive pairs, m)
    return pairs.mean(terms, pairs.negative[anchor] & (terms > 0))


def contrastive_loss(pairs: Pairs, positive_margin: float = 0.0, negative_margin: float = 1.0) -> Tensor:
    """Positives nearer than one Euclidean distance, negatives farther than another: two means over terms above zero.

    Args:
        pairs: of ``contrast_pairs``.
        positive_margin: distance from which positives count.
        negative_margin: distance below which negatives count.
    """
    distance = _distances(pairs)
    drawn = (distance - positive_margin).clamp_min(0.0)
    pushed = (negative_margin - distance).clamp_min(0.0)
    return pairs.mean(drawn, pairs.positive & (drawn > 0)) + pairs.mean(pushed, pairs.negative & (pushed > 0))


LOSSES: Mapping[str, Callable[..., Tensor]] = {
    "supcon": supcon_loss,
    "eps-supcon": eps_supcon_loss,
    "eps-supinfonce": eps_supinfonce_loss,
    "multi-similarity": multi_similarity_loss,
    "triplet": triplet_loss,
    "contrastive": contrastive_loss,
    "fairkl": fairkl_loss,
}
"""By name, for configs."""


def supervised_contrast(name: str, features: Tensor, labels: Tensor | None = None, **options: Any) -> Tensor:
    """The loss ``name`` of ``LOSSES`` in one call: ``options`` are its own and those of ``contrast_pairs``."""
    shared = ("mask", "groups", "anchors", "across_groups", "normalize", "gather")
    about_pairs = {key: options.pop(key) for key in shared if key in options}
    return LOSSES[name](contrast_pairs(features, labels, **about_pairs), **options)


def _view_major(z: Tensor) -> Tensor:
    """(B, V, D) -> (V B, D): all first views, then all second ones."""
    return z.transpose(0, 1).flatten(0, 1)


def _scale(temperature: float, base_temperature: float | None) -> float:
    return 1.0 if base_temperature is None else temperature / base_temperature


def _logsumexp(s: Tensor, chosen: Tensor) -> Tensor:
    """(n,) over the chosen entries of (n, m); minus infinity, without a gradient, where none is."""
    return s.masked_fill(~chosen, float("-inf")).logsumexp(dim=1)


def _mean_over(s: Tensor, chosen: Tensor) -> Tensor:
    """(n,) mean over the chosen entries of (n, m); 0 where none is."""
    return s.masked_fill(~chosen, 0.0).sum(dim=1) / chosen.sum(dim=1).clamp_min(1)


def _log_one_plus(x: Tensor, chosen: Tensor) -> Tensor:
    """(n,) of log(1 + sum over the chosen of e^x)."""
    return F.pad(x.masked_fill(~chosen, float("-inf")), (1, 0)).logsumexp(dim=1)


def _distances(pairs: Pairs) -> Tensor:
    """(n, m) Euclidean, by differences: products lose digits where points are near."""
    with torch.autocast(pairs.rows.device.type, enabled=False):
        return torch.cdist(pairs.rows, pairs.columns, compute_mode="donot_use_mm_for_euclid_dist")

r"""Losses of "wav2vec 2.0" (Baevski et al., 2020).

* contrast, of every masked frame t with its distractors:
  :math:`\ell_t = -\log \frac{e^{sim(c_t, q_t)/\kappa}}{\sum_{q \in \{q_t\} \cup Q_t} e^{sim(c_t, q)/\kappa}}`, sim the
  cosine;
* diversity: :math:`(GV - \sum_g e^{H(\bar p_g)}) / (GV)`;
* two totals over the N masked frames: fairseq's :math:`\sum \ell_t + N (0.1\,L_{div} + 10\,\overline{z^2})`, and
  transformers' :math:`\sum \ell_t + 0.1 N L_{div}`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.layers.span_mask import hidden_places


def contrast_logits(
    context: Tensor, targets: Tensor, codes: Tensor, negatives: Tensor, mask: Tensor, temperature: float = 0.1
) -> Tensor:
    """Cosines over ``temperature`` of every masked frame with its own target, in column 0, and its distractors.

    Args:
        context: (N, D) projected context of the masked frames, in the order of ``mask.nonzero()``.
        targets: (N, D) projected quantised frames.
        codes: (N, G) int64 codes of the targets; a distractor with the codes of the target is left out (-inf).
        negatives: (N, K) int64 of ``sample_negatives``.
        mask: (B, T) bool.
        temperature: kappa.

    Returns:
        (N, 1 + K) float32.
    """
    rows, own = hidden_places(mask)
    c, q = F.normalize(context.float(), dim=-1, eps=1e-8), F.normalize(targets.float(), dim=-1, eps=1e-8)
    counts = mask.sum(dim=1)
    shape = (len(mask), int(counts.max()), c.shape[-1])
    # All pairs within a clip: m x m cosines cost less than K copies of every target.
    if shape[0] * shape[1] == len(c):
        pairs = torch.bmm(c.view(shape), q.view(shape).transpose(1, 2))
    else:
        blank = c.new_zeros(shape)
        pairs = torch.bmm(blank.index_put((rows, own), c), blank.index_put((rows, own), q).transpose(1, 2))
    columns = torch.cat([own[:, None], negatives], dim=1)
    logits = pairs[rows, own].gather(1, columns) / temperature
    first = counts.cumsum(0) - counts
    drawn = codes[first[rows][:, None] + negatives]  # (N, K, G)
    same = (drawn == codes[:, None]).all(dim=-1)
    return logits.masked_fill(F.pad(same, (1, 0)), float("-inf"))


def contrast_loss(logits: Tensor) -> Tensor:
    """Sum over the N frames of the cross-entropy of column 0: scalar."""
    return (logits.logsumexp(dim=1) - logits[:, 0]).sum()


def contrast_accuracy(logits: Tensor) -> Tensor:
    """Share of frames whose own target is more alike than every distractor; equal ones do not count."""
    return (logits[:, 0] > logits[:, 1:].amax(dim=1)).float().mean()


def perplexity(usage: Tensor) -> Tensor:
    """Sum over groups of exp(entropy): (G, V) mean probabilities -> scalar in [G, GV]."""
    # The eps (fairseq's) keeps slopes finite where a probability has underflowed.
    return torch.exp(-(usage * (usage + 1e-7).log()).sum(dim=-1)).sum()


def diversity_loss(usage: Tensor) -> Tensor:
    """(GV - perplexity) / (GV) of mean probabilities (G, V): 0 for uniform usage, (GV - G) / (GV) at collapse."""
    return (usage.numel() - perplexity(usage)) / usage.numel()


def fairseq_total(
    contrast: Tensor,
    diversity: Tensor,
    penalty: Tensor,
    frames: Tensor | float,
    diversity_weight: float = 0.1,
    penalty_weight: float = 10.0,
) -> Tensor:
    """Total, summed over the masked frames, of fairseq's criterion.

    Args:
        contrast: sum of the contrasts of all masked frames.
        diversity: ``diversity_loss``.
        penalty: mean square of the latents before their norm.
        frames: number N of masked frames.
        diversity_weight: of the diversity.
        penalty_weight: of the penalty; 0 for LARGE.
    """
    return contrast + frames * (diversity_weight * diversity + penalty_weight * penalty)


def transformers_total(
    contrast: Tensor, diversity: Tensor, frames: Tensor | float, diversity_weight: float = 0.1
) -> Tensor:
    """Total, summed over the masked frames, of transformers' ``Wav2Vec2ForPreTraining``: it has no penalty."""
    return contrast + diversity_weight * frames * diversity

"""Which frames of a clip are hidden, in spans ("wav2vec 2.0", Baevski et al., 2020), and which other hidden ones serve
as distractors. Every draw is one of tensors for the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perception.errors import DataError

VARIANTS = ("fairseq", "transformers")


def span_mask(
    lengths: Tensor,
    frames: int,
    probability: float = 0.65,
    span: int = 10,
    min_spans: int = 2,
    variant: str = "fairseq",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw spans of frames to hide; spans may overlap.

    A clip of n real frames gets floor(probability n / span + u) spans, u uniform in [0, 1), at least ``min_spans`` and
    no more than fit; their starts are drawn without replacement.

    Args:
        lengths: (B,) int64 real frames n of every clip.
        frames: frames T of the batch, padding included.
        probability: of a frame to be covered if spans did not overlap.
        span: frames M of a span.
        min_spans: least number of spans.
        variant: ``'fairseq'``: starts lie in 0 ... n - M - 1, and every clip keeps as many hidden frames as the one
            with the fewest, chosen at random. ``'transformers'``: starts lie in 0 ... n - M, and nothing is trimmed.
        generator: source of the random numbers, on the device of ``lengths``.

    Returns:
        (B, T) bool, True where hidden; never True on padding.

    Raises:
        DataError: a clip has fewer than ``span`` real frames, or fewer than two frames would be hidden, which leaves
            no distractor.
    """
    shortest = int(lengths.min())
    if shortest < span:
        row = int(lengths.argmin())
        raise DataError(
            f"clip {row} of the batch has {shortest} frames, fewer than the {span} of one masked span: leave out "
            f"shorter clips, or set 'mask_length' to at most {max(shortest, 1)}"
        )
    device = lengths.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, device=device, generator=generator)

    # A clip of exactly one span has one place for it in either variant.
    places = (lengths - span + (variant == "transformers")).clamp(min=1)
    count = (probability * lengths / span + uniform(len(lengths))).floor().long().clamp(min=min_spans)
    count = torch.minimum(torch.minimum(count, (lengths // span).clamp(min=1)), places)
    steps = torch.arange(frames, device=device)
    starts = _lowest(uniform(len(lengths), frames), steps < places[:, None], count)
    begun = starts.long().cumsum(dim=1)
    mask = begun > torch.nn.functional.pad(begun, (span, 0))[:, :frames]
    if variant == "fairseq":
        mask = _lowest(uniform(len(lengths), frames), mask, mask.sum(dim=1).min().expand(len(lengths)))
    if int(mask.sum(dim=1).min()) < 2:
        raise DataError("only one frame of a clip is masked, which leaves no distractor: raise 'min_spans'")
    return mask


def _lowest(noise: Tensor, allowed: Tensor, count: Tensor) -> Tensor:
    """(B, T) bool: the ``count`` (B,) places of every row with the least ``noise`` among the ``allowed`` ones."""
    order = noise.masked_fill(~allowed, 2.0).argsort(dim=1)
    places = torch.arange(noise.shape[1], device=noise.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return (rank < count[:, None]) & allowed


def sample_negatives(mask: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Distractors of every hidden frame, drawn uniformly, with replacement, from the other hidden ones of its clip.

    Args:
        mask: (B, T) bool, at least two hidden frames a clip.
        count: distractors K of a frame.
        generator: source of the random numbers, on the device of ``mask``.

    Returns:
        (N, K) int64: numbers among the clip's own hidden frames (0 ... m - 1), for the N hidden frames in the order of
        ``mask.nonzero()``.
    """
    hidden = mask.sum(dim=1)
    if int(hidden.min()) < 2:
        raise DataError("a clip with fewer than two masked frames has no distractor")
    rows, own = hidden_places(mask)
    others = (hidden[rows] - 1)[:, None]
    drawn = (torch.rand(len(rows), count, device=mask.device, generator=generator) * others).long()
    drawn = torch.minimum(drawn, others - 1)  # float32 may round up to the number itself
    return drawn + (drawn >= own[:, None])


def hidden_places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """(row, number within the row) of every hidden frame, each (N,), in the order of ``mask.nonzero()``."""
    rows = mask.nonzero(as_tuple=True)[0]
    return rows, (mask.long().cumsum(dim=1) - 1)[mask]

"""Product quantiser with a Gumbel softmax ("Categorical Reparameterization with Gumbel-Softmax", Jang et al., 2017; as
used by "wav2vec 2.0", Baevski et al., 2020). Parameters are named as in transformers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perception.layers.linear import linear


@dataclass(frozen=True)
class Quantized:
    """What the quantiser makes of N frames.

    Attributes:
        vectors: (N, d) chosen entries of all groups, joined.
        codes: (N, G) int64 the chosen entry of every group.
        soft: (G, V) sum over frames of the softmax of the logits, without noise or temperature.
        hard: (G, V) sum over frames of one-hot argmax of the logits, without noise.
    """

    vectors: Tensor
    codes: Tensor
    soft: Tensor
    hard: Tensor


class StraightThrough(torch.autograd.Function):
    """``hard`` forwards, to the last bit, and the gradient of ``soft`` backwards."""

    @staticmethod
    def forward(ctx: object, soft: Tensor, hard: Tensor) -> Tensor:  # type: ignore[override]
        """The hard choice."""
        return hard

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """The gradient goes to the soft choice as it is."""
        return grad, None


class GumbelQuantizer(nn.Module):
    """Chooses one of V learned vectors in each of G groups.

    Args:
        in_dim: width of the frames.
        dim: width d of the joined vectors; G must divide it.
        groups: codebooks G.
        entries: vectors V of a codebook.
        start: temperature at step 0.
        decay: factor a step.
        floor: least temperature. The temperature of step t is max(start decay^t, floor).

    Attributes:
        updates: number of steps so far, a buffer and so in every checkpoint.
    """

    updates: Tensor

    def __init__(
        self,
        in_dim: int,
        dim: int = 256,
        groups: int = 2,
        entries: int = 320,
        start: float = 2.0,
        decay: float = 0.999995,
        floor: float = 0.5,
    ) -> None:
        super().__init__()
        self.groups, self.entries = groups, entries
        self.schedule = (start, decay, floor)
        self.codevectors = nn.Parameter(torch.rand(1, groups * entries, dim // groups))
        self.weight_proj = nn.Linear(in_dim, groups * entries)
        nn.init.normal_(self.weight_proj.weight)
        nn.init.zeros_(self.weight_proj.bias)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @property
    def temperature(self) -> float:
        """Temperature of the current step."""
        start, decay, floor = self.schedule
        return max(start * decay ** int(self.updates), floor)

    def forward(self, frames: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """(N, C) -> see ``Quantized``; in float32 at least, whatever the precision around it.

        Training draws Gumbel noise and passes gradients straight through; evaluation takes the largest logit.
        """
        precise = torch.promote_types(self.codevectors.dtype, torch.float32)
        with torch.autocast(frames.device.type, enabled=False):
            logits = linear(
                frames.to(precise)[None], self.weight_proj.weight.to(precise), self.weight_proj.bias.to(precise)
            )
            logits = logits.view(len(frames), self.groups, self.entries)
            best = logits.detach().argmax(dim=-1)
            soft = logits.softmax(dim=-1).sum(dim=0)
            hard = self._one_hot(best).sum(dim=0)
            codes = best
            if self.training:
                noise = -torch.empty_like(logits).exponential_(generator=generator).log()
                noisy = ((logits + noise) / self.temperature).softmax(dim=-1)
                codes = noisy.detach().argmax(dim=-1)
                choice = StraightThrough.apply(noisy, self._one_hot(codes))
            else:
                choice = self._one_hot(codes)
            book = self.codevectors.to(precise).view(self.groups, self.entries, -1)
            vectors = torch.bmm(choice.transpose(0, 1), book).transpose(0, 1).flatten(1)
        return Quantized(vectors, codes, soft, hard)

    def _one_hot(self, codes: Tensor) -> Tensor:
        return torch.zeros(
            (*codes.shape, self.entries),
            device=codes.device,
            dtype=torch.promote_types(self.codevectors.dtype, torch.float32),
        ).scatter_(-1, codes[..., None], 1.0)

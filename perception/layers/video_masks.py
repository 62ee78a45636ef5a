"""Which cubes of a clip are hidden: every way of masking behind one function.

``tube`` (VideoMAE, 2022) hides ``int(ratio * rows * columns)`` places, the same ones in every time slot; ``random``
("Masked Autoencoders As Spatiotemporal Learners", 2022, there called agnostic) keeps ``int(L * (1 - ratio))`` of all L
cubes; ``shuffle`` is the same with ``int(ratio * L)`` hidden, as transformers' examples of VideoMAE count: 1332 of 1568
at 0.85, where ``random`` hides 1333. Two more follow an order instead of chance, with the number kept by ``random``:
``temporal`` keeps the beginning, so that the future is predicted, and ``center`` keeps both ends, so that the middle is
interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perception.errors import DataError
from perception.layers.patches import kept_patches
from perception.layers.video_tokens import Sizes

ALIASES = {"agnostic": "random", "boundary": "center"}
MASKS = ("tube", "random", "shuffle", "agnostic", "temporal", "center", "boundary")


@dataclass(frozen=True)
class CubeMask:
    """A split of the L cubes of every clip, the same numbers for all clips.

    Attributes:
        keep: (B, K) ids of the visible cubes, ascending.
        hidden: (B, L - K) ids of the others, ascending.
    """

    keep: Tensor
    hidden: Tensor

    @property
    def length(self) -> int:
        """Number of cubes L."""
        return self.keep.shape[1] + self.hidden.shape[1]

    @property
    def mask(self) -> Tensor:
        """(B, L) bool, True where hidden."""
        mask = torch.zeros(len(self.keep), self.length, dtype=torch.bool, device=self.keep.device)
        return mask.scatter_(1, self.hidden, True)

    @property
    def restore(self) -> Tensor:
        """(B, L) place of every cube in ``[keep, hidden]``, which brings that order back to the grid's."""
        return torch.cat([self.keep, self.hidden], dim=1).argsort(dim=1)

    @property
    def ratio(self) -> float:
        """Share of hidden cubes."""
        return self.hidden.shape[1] / self.length


def mask_cubes(kind: str, noise: Tensor, grid: Sizes, ratio: float) -> CubeMask:
    """Hide cubes in the way ``kind``.

    Args:
        kind: one of ``MASKS``.
        noise: (B, L) independent uniform numbers, of which ``tube`` uses the first ``rows * columns`` and the ways that
            follow an order none.
        grid: (slots, rows, columns).
        ratio: share to hide, in (0, 1).
    """
    slots, rows, columns = grid
    length, places = slots * rows * columns, rows * columns
    kind = ALIASES.get(kind, kind)
    kept = kept_places(kind, grid, ratio)
    if kind == "tube":
        order = noise[:, :places].argsort(dim=1)
        visible, hidden = order[:, : kept // slots], order[:, kept // slots :]
        starts = torch.arange(0, length, places, device=noise.device)[None, :, None]
        return CubeMask(
            *((part.sort(dim=1).values[:, None] + starts).flatten(1) for part in (visible, hidden)),
        )
    if kind in ("random", "shuffle"):
        scores = noise
    else:
        index = torch.arange(length, device=noise.device)
        scores = index if kind == "temporal" else torch.minimum(index, length - 1 - index)
        scores = scores.expand(len(noise), -1)
    order = scores.argsort(dim=1, stable=True)
    return CubeMask(order[:, :kept].sort(dim=1).values, order[:, kept:].sort(dim=1).values)


def kept_places(kind: str, grid: Sizes, ratio: float) -> int:
    """Number of visible cubes of a clip: 160 of 8 x 14 x 14 for tubes at 0.9, 156 for the other ways."""
    slots, rows, columns = grid
    if ALIASES.get(kind, kind) == "tube":
        return slots * (rows * columns - int(ratio * rows * columns))
    if kind == "shuffle":
        return slots * rows * columns - int(ratio * slots * rows * columns)
    return kept_patches(slots * rows * columns, ratio)


def mask_from_bool(mask: Tensor) -> CubeMask:
    """A given mask (B, L) bool, True where hidden.

    Raises:
        DataError: the clips of the batch hide different numbers of cubes.
    """
    counts = mask.sum(dim=1)
    if bool((counts != counts[0]).any()):
        found = sorted(set(counts.tolist()))
        raise DataError(f"every clip of a batch has to hide the same number of cubes, but the masks hide {found}")
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    kept = mask.shape[1] - int(counts[0])
    return CubeMask(order[:, :kept], order[:, kept:])


def show_ends(batch: int, grid: Sizes, slots_shown: int = 1, device: torch.device | str = "cpu") -> CubeMask:
    """Whole time slots at both ends visible, all between hidden: the mask that interpolation is judged with."""
    slots, rows, columns = grid
    slot = torch.arange(slots * rows * columns, device=device) // (rows * columns)
    inside = (slot >= slots_shown) & (slot < slots - slots_shown)
    return mask_from_bool(inside.expand(batch, -1))


def running_cells(start: Tensor, grid: Sizes, ratio: float) -> Tensor:
    """Cubes that the decoder reconstructs under the running cell masking of VideoMAE V2 (2023).

    Cells of 2 x 2 places; ``4 * (1 - ratio)`` of the four are reconstructed, and which ones moves on by one place with
    every time slot, so that every place gets its turn.

    Args:
        start: (B,) int64, the place of the first slot.
        grid: (slots, rows, columns), rows and columns even.
        ratio: share that the decoder leaves out: 0.25, 0.5 or 0.75.

    Returns:
        (B, L * (1 - ratio)) ids, ascending.
    """
    slots, rows, columns = grid
    device = start.device
    corner = (torch.arange(rows, device=device)[:, None] % 2) * 2 + torch.arange(columns, device=device) % 2
    turn = torch.arange(slots, device=device)[None, :, None, None] + start[:, None, None, None]
    chosen = (corner - turn) % 4 < round(4 * (1 - ratio))
    return mask_from_bool(chosen.flatten(1)).hidden

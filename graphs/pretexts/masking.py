"""Which nodes a masked graph autoencoder hides, and how (GraphMAE, KDD 2022, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NodeMask:
    """A draw of hidden nodes.

    Attributes:
        masked: (M,) the hidden nodes, whose features are to be reconstructed.
        kept: (N - M,) the others, ascending.
        token: (t,) masked nodes that read the mask token.
        noise: (n,) masked nodes that read another node's features.
        noise_source: (n,) the nodes that they read.
    """

    masked: Tensor
    kept: Tensor
    token: Tensor
    noise: Tensor
    noise_source: Tensor


def mask_counts(num_nodes: int, mask_ratio: float, replace_rate: float) -> tuple[int, int, int]:
    """Numbers of masked, token and noise nodes; all rounded down.

    Rounding both parts down can leave one masked node that keeps its features and still is a target.
    """
    masked = int(mask_ratio * num_nodes)
    if replace_rate <= 0:
        return masked, masked, 0
    return masked, int((1 - replace_rate) * masked), int(replace_rate * masked)


def draw_node_mask(
    num_nodes: int, mask_ratio: float, replace_rate: float = 0.0, device: torch.device | str = "cpu"
) -> NodeMask:
    """Draw over all nodes of the (batched) graph with torch's global generator.

    Args:
        num_nodes: N.
        mask_ratio: share of nodes to hide.
        replace_rate: share of the hidden nodes that read a random node instead of the token.
        device: where the indices are wanted.
    """
    masked_count, token_count, noise_count = mask_counts(num_nodes, mask_ratio, replace_rate)
    order = torch.randperm(num_nodes, device=device)
    masked, kept = order[:masked_count], order[masked_count:].sort().values
    shuffled = masked[torch.randperm(masked_count, device=device)] if noise_count else masked
    # Not [-noise_count:], which would be all of them for a count of zero.
    noise = shuffled[masked_count - noise_count :]
    source = torch.randperm(num_nodes, device=device)[:noise_count] if noise_count else noise
    return NodeMask(masked, kept, shuffled[:token_count], noise, source)

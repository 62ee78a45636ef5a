r"""Contrast of views ("A Simple Framework for Contrastive Learning of Visual Representations", Chen et al., ICML 2020).

With unit embeddings :math:`z_i^v` of views v = 1..V of images i = 1..B,

.. math::
    L = -\frac{1}{B V (V - 1)} \sum_i \sum_v \sum_{u \ne v}
        \log \frac{\exp(z_i^v \cdot z_i^u / \tau)}{\sum_{(j, w) \ne (i, v)} \exp(z_i^v \cdot z_j^w / \tau)},

which is NT-Xent for V = 2, and for more views the form of "Supervised Contrastive Learning" (Khosla et al., 2020) with
the logarithm inside the sum over positives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perception.losses.contrastive import gather_with_grad, rank_and_world


def view_contrast_loss(views: Tensor, temperature: float = 0.1, gather: bool = False) -> Tensor:
    """Every view against the other views of its image and all views of all other images.

    Args:
        views: (V, B, E) embeddings of length 1, V >= 2.
        temperature: divides the cosines.
        gather: contrast with the views of all ranks, if there are several, which must hold batches of one size. A rank
            returns the loss of its own images; the mean over ranks, of losses as of gradients, is that of all images.

    Returns:
        Scalar, float32 for inputs of lower precision. ln(VB - 1) when all embeddings are equal.
    """
    if views.ndim != 3 or len(views) < 2:
        raise ValueError(f"views {tuple(views.shape)} must be embeddings (V, B, E) of at least two views")
    views = views.to(torch.promote_types(views.dtype, torch.float32))
    count, batch, _ = views.shape
    rank, world = rank_and_world() if gather else (0, 1)
    keys = views.transpose(0, 1)
    keys = (gather_with_grad(keys) if gather else keys).transpose(0, 1)  # (V, W B, E)
    cosines = views.flatten(0, 1) @ keys.flatten(0, 1).T  # (V B, V W B)
    own = torch.arange(count, device=views.device)[:, None] * batch * world + rank * batch
    own = (own + torch.arange(batch, device=views.device)).view(-1, 1)  # each row's place among the columns
    logits = (cosines / temperature).scatter(1, own, float("-inf"))
    # The sum over u != v of z^v z^u, from the sum over all views.
    positives = (views * views.sum(0)).sum(2) - views.square().sum(2)  # (V, B)
    return logits.logsumexp(1).mean() - positives.mean() / (temperature * (count - 1))

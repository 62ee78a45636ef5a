"""What timm's networks do not tell in one way: layer groups, means over places, other image sizes."""

from __future__ import annotations

from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from perception.errors import nearest
from perception.layers.positions import guess_grid, resample_positions


def unknown_model(name: str) -> str | None:
    """What is wrong with a timm model's name, its nearest relatives included; ``None`` if it exists."""
    import timm

    bare = name.split(".")[0]
    if timm.is_model(bare):
        return None
    near = nearest(bare, timm.list_models())
    return f"timm has no such model{'; near it are ' + ', '.join(map(repr, near)) if near else ''}"


@cache
def timm_patch(name: str) -> tuple[int, int]:
    """Rows and columns of the patches of a plain vision transformer, 1 for any other network; takes no memory."""
    import timm
    from timm.layers import PatchEmbed
    from timm.models import VisionTransformer

    with torch.device("meta"):
        network: Any = timm.create_model(name.split(".")[0], pretrained=False, num_classes=0)
    if not isinstance(network, VisionTransformer) or type(network.patch_embed) is not PatchEmbed:
        return 1, 1
    rows, columns = network.patch_embed.patch_size
    return int(rows), int(columns)


def layer_groups(network: nn.Module) -> tuple[dict[str, int], int]:
    """Layer-decay group of every parameter by timm's own matcher, input 0, and the number of the last group."""
    from timm.models import group_parameters

    matcher: Any = network.group_matcher()  # type: ignore[operator]
    groups = group_parameters(network, matcher, reverse=True)
    return groups, max(groups.values())


def mean_of_places(network: Any, features: Tensor) -> Tensor:
    """Mean over the places of unpooled features: tokens (B, N, D), maps (B, D, h, w) or (B, h, w, D) -> (B, D)."""
    if features.ndim == 2:
        return features
    if features.ndim == 3:
        return features[:, getattr(network, "num_prefix_tokens", 0) :].mean(dim=1)
    last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    return features.mean(dim=(1, 2) if last else (2, 3))


def set_image_size(network: Any, size: tuple[int, int], window_size: int | None = None) -> None:
    """Make a network for images of ``size``: where its parameters depend on it, they are resampled.

    Plain vision transformers then also take any other size, and interpolate their positions to its grid. Windows of
    attention grow with the image unless ``window_size`` is given.
    """
    from timm.layers import Format, PatchEmbed
    from timm.models import VisionTransformer

    embed = getattr(network, "patch_embed", None)
    native = getattr(embed, "img_size", None)
    if hasattr(network, "set_input_size") and native is not None and tuple(native) != size:
        network.set_input_size(img_size=size, **({} if window_size is None else {"window_size": window_size}))
    if isinstance(network, VisionTransformer) and type(embed) is PatchEmbed and not network.dynamic_img_size:
        network.dynamic_img_size = True  # type: ignore[misc]  # final for scripting alone
        embed.strict_img_size, embed.flatten, embed.output_fmt = False, False, Format.NHWC


def has_windows(network: Any) -> bool:
    """Whether the attention of a network runs in windows whose size may be chosen."""
    resize = getattr(network, "set_input_size", None)
    return resize is not None and "window_size" in signature(resize).parameters


def first_layer(network: Any) -> str | None:
    """Name of the one convolution that sees the bands; ``None`` where timm names several."""
    name = network.default_cfg.get("first_conv")
    return name if isinstance(name, str) else None


def resample_vit_positions(network: Any, positions: Tensor) -> Tensor:
    """Positions (1, P + L, D) of another square grid at that of a vision transformer of timm."""
    prefix = 0 if getattr(network, "no_embed_class", False) else getattr(network, "num_prefix_tokens", 1)
    grid = tuple(network.patch_embed.grid_size)
    return resample_positions(positions, guess_grid(positions.shape[1] - prefix, grid), grid, prefix)


def pooled_dims(network: Any) -> int:
    """Width of what the classifier would get."""
    return int(getattr(network, "head_hidden_size", None) or network.num_features)


def strides_of(network: Any) -> tuple[int, ...]:
    """Down-sampling of every map that ``forward_intermediates`` can give."""
    return tuple(int(stage["reduction"]) for stage in network.feature_info)

"""What timm's networks do not tell in one way: layer groups, means over places, other image sizes."""

from __future__ import annotations

from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from perception.errors import CheckpointError, nearest
from perception.layers.positions import guess_grid, resample_positions

# Networks that are named where another one cannot have the stem for small images; many more can.
SMALL_STEMS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2")


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


def small_stem_fault(name: str) -> str | None:
    """Why a timm model cannot have the stem for small images; ``None`` if it can. Takes no memory."""
    if _has_large_stem(name):
        return None
    near = nearest(name.split(".")[0], SMALL_STEMS) or SMALL_STEMS
    choices = ", ".join(map(repr, near))
    return f"{name} does not begin with one convolution of 7 x 7 and max-pooling, which it replaces; {choices} do"


@cache
def _has_large_stem(name: str) -> bool:
    import timm
    from timm.models import ResNet

    with torch.device("meta"):
        network: Any = timm.create_model(name.split(".")[0], pretrained=False, num_classes=0)
    if not isinstance(network, ResNet):
        return False
    first: Any = network.conv1
    return type(first) is nn.Conv2d and first.kernel_size == (7, 7) and type(network.maxpool) is nn.MaxPool2d


def use_small_stem(network: Any) -> None:
    """Let a residual network of timm begin with a convolution of 3 x 3 and stride 1, and leave out its max-pooling.

    So the first maps of images of 32 pixels have 32 x 32 places instead of 8 x 8 ("Deep Residual Learning for Image
    Recognition", He et al., 2016, on CIFAR-10). Strides that ``feature_info`` tells follow.
    """
    old = network.conv1
    network.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # timm's for all of them
    network.maxpool = nn.Identity()
    for stage in network.feature_info:
        stage["reduction"] //= 2 if stage["module"] == "act1" else 4


def require_same_stem(network: Any, given: Tensor, own: Tensor) -> None:
    """Refuse the first convolution of a residual network that was made for images of the other size.

    Args:
        network: takes the weights.
        given: (D, C, p, q) first weight that is offered.
        own: the one in its place.

    Raises:
        CheckpointError: one is 3 x 3 and the other 7 x 7; the message tells what to set.
    """
    from timm.models import ResNet

    small, large = (3, 3), (7, 7)
    kernels = tuple(given.shape[2:]), tuple(own.shape[2:])
    if isinstance(network, ResNet) and kernels in ((small, large), (large, small)):
        theirs, mine = (kernel == small for kernel in kernels)
        raise CheckpointError(
            f"the weights begin with a convolution of {kernels[0][0]} x {kernels[0][0]}, this network with one of "
            f"{kernels[1][0]} x {kernels[1][0]}: they were made with model.backbone.small_images={theirs}, and here it "
            f"is {mine}. Set it as they have it, or pre-train anew"
        )

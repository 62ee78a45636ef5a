"""Sizes of speech encoders: published ones by name, and what can be wrong with a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from perception.errors import not_among

ARCHITECTURES = ("wav2vec2", "hubert", "wavlm")
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
_BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12, "ffn_dim": 3072, "norm": "group", "conv_gradient": 0.1}
_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16, "ffn_dim": 4096, "norm": "layer", "conv_gradient": 1.0}
PRESETS: dict[str, dict[str, Any]] = {
    "base": _BASE,
    "large": _LARGE,
    "xls-r-300m": _LARGE,
    "xls-r-1b": {**_LARGE, "embed_dim": 1280, "depth": 48, "ffn_dim": 5120},
    "xls-r-2b": {**_LARGE, "embed_dim": 1920, "depth": 48, "ffn_dim": 7680},
}
PADDINGS = ("exact", "zeros")
_DEFAULTS: dict[str, Any] = {"conv_dim": 512, "pos_kernel": 128, "pos_groups": 16}
_SIZES = ("embed_dim", "depth", "num_heads", "ffn_dim", "norm", "conv_gradient", "conv_dim", "pos_kernel", "pos_groups")


def resolved(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of a config: given ones, else the preset's, else the defaults; and ``conv_bias``."""
    preset = PRESETS.get(str(cfg["preset"]), {})
    sizes = {key: cfg[key] if cfg[key] is not None else preset.get(key, _DEFAULTS.get(key)) for key in _SIZES}
    bias = cfg["conv_bias"]
    # WavLM LARGE has none, unlike the others of its kind.
    sizes["conv_bias"] = sizes["norm"] == "layer" and cfg["architecture"] != "wavlm" if bias is None else bool(bias)
    return sizes


def model_of(architecture: str) -> tuple[Any, Any]:
    """Transformers' config and model classes."""
    import transformers

    name = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM"}[architecture]
    return getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}Model")


def encoder_faults(cfg: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Faults (key, message) of the config of a ``SpeechEncoder``, with defaults filled in."""
    known = (("architecture", ARCHITECTURES), ("padding", PADDINGS))
    for key, choices in known:
        if cfg[key] not in choices:
            yield key, not_among(cfg[key], choices)
    if cfg["preset"] is not None and cfg["preset"] not in PRESETS:
        yield "preset", not_among(cfg["preset"], PRESETS)
        return
    sizes = resolved(cfg)
    missing = [key for key in _SIZES if sizes.get(key) is None]
    if missing:
        others = f"; so must {', '.join(missing[1:])}" if len(missing) > 1 else ""
        yield missing[0], f"must be given without a preset{others}"
        return
    if sizes["norm"] not in ("group", "layer"):
        yield "norm", not_among(sizes["norm"], ("group", "layer"))
    whole = [key for key in _SIZES if key not in ("norm", "conv_gradient")]
    wrong = [key for key in whole if not isinstance(sizes[key], int) or sizes[key] < 1]
    for key in wrong:
        yield key, "must be a whole number of at least 1"
    if wrong:
        return
    for key, divisor in (("num_heads", sizes["num_heads"]), ("pos_groups", sizes["pos_groups"])):
        if sizes["embed_dim"] % divisor:
            yield key, f"does not divide embed_dim = {sizes['embed_dim']}"
    kernels, strides = tuple(cfg["conv_kernels"]), tuple(cfg["conv_strides"])
    if len(kernels) != len(strides) or not kernels or min(*kernels, *strides) < 1:
        yield "conv_strides", f"must be as many positive numbers as conv_kernels, {len(kernels)}"
    if not 0 <= sizes["conv_gradient"] <= 1:
        yield "conv_gradient", "must lie in [0, 1]"
    for key in ("drop_rate", "layer_drop"):
        if not (isinstance(cfg[key], (int, float)) and 0 <= cfg[key] < 1):
            yield key, "must lie in [0, 1)"
    indices, depth = cfg["out_indices"], sizes["depth"]
    if not indices or any(not -depth <= i < depth for i in indices):
        yield "out_indices", f"must name layers between {-depth} and {depth - 1}"

"""State dicts of video transformers: VideoMAE's own names, transformers' names, and those of mae_st.

Our names are VideoMAE's, with the trunk's keys bare and the decoder's below the pretext: ``encoder_to_decoder.weight``,
``mask_token``, ``decoder.blocks.0...``, ``decoder.norm``, ``decoder.head``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Name in VideoMAE's files, name in transformers'; both ways, the longer names first.
_PARTS = (
    ("attn.proj.", "attention.output.dense."),
    ("attn.q_bias", "attention.attention.query.bias"),
    ("attn.v_bias", "attention.attention.value.bias"),
    ("norm1.", "layernorm_before."),
    ("norm2.", "layernorm_after."),
    ("mlp.fc1.", "intermediate.dense."),
    ("mlp.fc2.", "output.dense."),
)
_OLDER = (("attention.attention.q_bias", "attn.q_bias"), ("attention.attention.v_bias", "attn.v_bias"))
_TRUNK = (("patch_embed.proj.", "embeddings.patch_embeddings.projection."), ("norm.", "layernorm."))
_QKV = ("query", "key", "value")
_OFFICIAL_BLOCK = re.compile(r"^(decoder\.)?blocks\.(\d+)\.(.*)$")
_OTHER_BLOCK = re.compile(r"^(?:encoder\.layer|(decoder\.)decoder_layers)\.(\d+)\.(.*)$")


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of transformers' VideoMAE classes, of VideoMAE's repository or of mae_st, in our names.

    Keys below ``videomae.`` or ``encoder.``, the trunk of a pre-trained model, become bare; what is not known is passed
    on. The norm of a fine-tuned classifier, ``fc_norm``, stands in for the final norm that such a trunk lacks: the
    feature ``norm-gap`` is then the one that its head reads.
    """
    nested = any(key.startswith("encoder.blocks.") for key in state)
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        bare = key.removeprefix("videomae.").removeprefix("_orig_mod.")
        if nested:
            bare = bare.removeprefix("encoder.")
        out[_from_transformers(bare)] = value
    _merge(out)
    for last in ("weight", "bias"):
        if f"norm.{last}" not in out and f"fc_norm.{last}" in out:
            out[f"norm.{last}"] = out.pop(f"fc_norm.{last}")
    return out


def _from_transformers(key: str) -> str:
    block = _OTHER_BLOCK.match(key)
    if block:
        rest = block[3]
        for theirs, ours in (*_OLDER, *((b, a) for a, b in _PARTS)):
            if rest.startswith(theirs):
                rest = ours + rest[len(theirs) :]
                break
        return f"{block[1] or ''}blocks.{block[2]}.{rest}"
    for ours, theirs in _TRUNK:
        if key.startswith(theirs):
            return ours + key[len(theirs) :]
    return {"classifier.weight": "head.weight", "classifier.bias": "head.bias"}.get(key, key)


def _merge(state: dict[str, Tensor]) -> None:
    """Separate query, key and value maps (transformers: ``attention.attention.query``; mae_st: ``attn.q``) as one."""
    for stem, names in (("attention.attention.", _QKV), ("attn.", ("q", "k", "v"))):
        for last in ("weight", "bias"):
            firsts = [key for key in state if key.endswith(f"{stem}{names[0]}.{last}")]
            for first in firsts:
                block = first.removesuffix(f"{stem}{names[0]}.{last}")
                keys = [f"{block}{stem}{name}.{last}" for name in names]
                if all(key in state for key in keys):
                    state[f"{block}attn.qkv.{last}"] = torch.cat([state.pop(key) for key in keys])


def to_transformers(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Our names as transformers'.

    Args:
        state: of a trunk with ``qkv_bias='qv'``, with or without the decoder's keys.
        prefix: of the trunk's keys: empty for ``VideoMAEModel``, ``videomae.`` for the models around it.
    """
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        block = _OFFICIAL_BLOCK.match(key)
        if block:
            start = f"{block[1]}decoder_layers" if block[1] else f"{prefix}encoder.layer"
            out.update(_block_to_transformers(f"{start}.{block[2]}.", block[3], value))
        elif key.startswith(("decoder.", "encoder_to_decoder.", "mask_token", "fc_norm.")):
            out[key] = value
        elif key.startswith("head."):
            out["classifier." + key.removeprefix("head.")] = value
        else:
            ours, theirs = next(((a, b) for a, b in _TRUNK if key.startswith(a)), ("", ""))
            out[prefix + theirs + key[len(ours) :]] = value
    return out


def _block_to_transformers(start: str, rest: str, value: Tensor) -> dict[str, Tensor]:
    if rest == "attn.qkv.weight":
        parts = value.chunk(3)
        return {f"{start}attention.attention.{n}.weight": p for n, p in zip(_QKV, parts, strict=True)}
    for ours, theirs in _PARTS:
        if rest.startswith(ours):
            return {start + theirs + rest[len(ours) :]: value}
    raise ValueError(f"transformers' VideoMAE has no place for {rest!r} of a block: it knows qkv_bias='qv' only")


def fit_biases(state: dict[str, Tensor], own: Mapping[str, object]) -> dict[str, Tensor]:
    """Biases of queries, keys and values in the form that the keys ``own`` have.

    A bias of the keys adds the same to all scores of a query, so that setting it to 0 changes nothing.
    """
    out = dict(state)
    for key in state:
        if key.endswith("attn.qkv.bias") and key not in own:
            stem = key.removesuffix("qkv.bias")
            if f"{stem}q_bias" in own:
                out[f"{stem}q_bias"], _, out[f"{stem}v_bias"] = out.pop(key).chunk(3)
        elif key.endswith("attn.q_bias") and key not in own:
            stem = key.removesuffix("q_bias")
            if f"{stem}qkv.bias" in own and f"{stem}v_bias" in state:
                q, v = out.pop(key), out.pop(f"{stem}v_bias")
                out[f"{stem}qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
    return out


def pretraining_state(trunk: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file that VideoMAE's repository makes of a pre-trained model: the trunk below ``encoder.``, the rest beside.

    Args:
        trunk: state dict of a ``VideoViT``.
        decoder: state dict of the ``VideoMAE`` pretext.
    """
    return {**{f"encoder.{key}": value for key, value in trunk.items()}, **decoder}

"""State dicts of CLIPs: from open_clip's many dialects to the towers at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from perception.backbones.clip_towers import input_layer
from perception.backbones.inflation import inflate
from perception.backbones.timm_tools import resample_vit_positions
from perception.layers.positions import guess_grid, resample_positions

# Numbers and buffers that older files hold and no tower needs.
_OBSOLETE = ("input_resolution", "context_length", "vocab_size", "attn_mask", "text.attn_mask")
_OBSOLETE_ENDS = (".embeddings.position_ids", ".embeddings.token_type_ids")
# Names of the text tower where it is not a module of its own.
_FLAT = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.", "cls_emb")


def adapt(backbone: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape a state dict for ``backbone``, a ``CLIP``; what it does not know is passed on.

    Prefixes of data-parallel training go; the text tower moves into or out of ``text.``; positions are resampled to
    this image size and context; a patch embedding of RGB is inflated to the bands; the scale gets this shape. A scale
    and bias that only this model has keep their values.
    """
    own = backbone.state_dict()
    out = {_without_prefix(key): value for key, value in state.items()}
    out = {k: v for k, v in out.items() if k in own or not (k in _OBSOLETE or k.endswith(_OBSOLETE_ENDS))}
    out = _move_text(out, nested=hasattr(backbone, "text"))
    for key in ("logit_scale", "logit_bias"):
        if key in out and key in own and out[key].numel() == own[key].numel():
            out[key] = out[key].reshape(own[key].shape)
    if "logit_bias" in own and "logit_bias" not in out and "logit_scale" in out:
        out["logit_bias"] = own["logit_bias"]  # a CLIP that goes on as a SigLIP
    _resample_image(backbone, out, own)
    _resample_text(out, own)
    key = f"visual.{input_layer(backbone.visual)}.weight"
    weight = out.get(key)
    if weight is not None and key in own and weight.ndim == 4 and weight.shape[1] == 3 != own[key].shape[1]:
        out[key] = inflate(weight, backbone.preprocess.bands)
    return out


def _without_prefix(key: str) -> str:
    for prefix in ("_orig_mod.", "module."):
        key = key.removeprefix(prefix)
    return key


def _move_text(state: dict[str, Tensor], nested: bool) -> dict[str, Tensor]:
    if nested and "token_embedding.weight" in state:
        return {(f"text.{k}" if k.startswith(_FLAT) else k): v for k, v in state.items()}
    if not nested and "text.token_embedding.weight" in state:
        return {k.removeprefix("text."): v for k, v in state.items()}
    return state


def _resample_image(backbone: Any, state: dict[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for key in ("visual.positional_embedding", "visual.attnpool.positional_embedding", "visual.trunk.pos_embed"):
        given, wanted = state.get(key), own.get(key)
        if given is None or wanted is None or given.ndim != wanted.ndim or given.ndim > 3:
            continue
        if given.shape == wanted.shape or given.shape[-1] != wanted.shape[-1]:
            continue
        if given.ndim == 3:
            state[key] = resample_vit_positions(backbone.visual.trunk, given)
        else:
            tokens = len(wanted) - 1
            grid = getattr(backbone.visual, "grid_size", None) or guess_grid(tokens, (1, 1))
            state[key] = resample_positions(given[None], guess_grid(len(given) - 1, grid), grid, 1)[0]


def _resample_text(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """A shorter context is a cut, so that texts that fit keep their embedding; a longer one is interpolated."""
    for key in ("positional_embedding", "text.positional_embedding"):
        given, wanted = state.get(key), own.get(key)
        if given is None or wanted is None or given.shape[-1] != wanted.shape[-1] or given.shape == wanted.shape:
            continue
        if len(given) > len(wanted):
            state[key] = given[: len(wanted)]
        else:
            stretched = F.interpolate(given.float().T[None], size=len(wanted), mode="linear", align_corners=False)
            state[key] = stretched[0].T.to(given.dtype)

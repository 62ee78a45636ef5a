"""The two towers of a CLIP: built from open_clip's classes, and run by the fastest exact way that each allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.clip_blocks import is_plain, run_block, run_blocks, take_rows
from perception.backbones.timm_tools import first_layer, mean_of_places, set_image_size
from perception.errors import ConfigError, DataError, Fault
from perception.layers.attention import attend
from perception.layers.linear import linear, use_fast_linear
from perception.layers.patches import patchify
from perception.layers.positions import resample_positions


def build_towers(cfg: Mapping[str, Any], in_channels: int, checkpointing: bool = False) -> nn.Module:
    """open_clip's own ``CLIP`` or ``CustomTextCLIP`` of a resolved config, with random weights.

    Of a CoCa model the two contrastive towers are built; its text decoder has no part in embeddings.
    """
    import open_clip

    text, by_transformers = (
        dict(cfg["text_cfg"]),
        bool(cfg["text_cfg"]["hf_model_name"] or cfg["text_cfg"]["hf_config"]),
    )
    hf_config = text.pop("hf_config")
    custom = cfg["custom_text"] or by_transformers or cfg["multimodal_cfg"] is not None
    stand_in = {"context_length": 2, "vocab_size": 2, "width": 8, "heads": 1, "layers": 1}
    vision = {**cfg["vision_cfg"], "output_tokens": False}
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(
        embed_dim=cfg["embed_dim"],
        vision_cfg=open_clip.CLIPVisionCfg(**vision),
        text_cfg=open_clip.CLIPTextCfg(**(stand_in if by_transformers else {**text, "output_tokens": False})),
        quick_gelu=cfg["quick_gelu"],
        init_logit_scale=cfg["init_logit_scale"],
        init_logit_bias=cfg["init_logit_bias"],
        nonscalar_logit_scale=cfg["nonscalar_logit_scale"],
    )
    if by_transformers:
        model.text = _transformers_tower(text, hf_config, cfg["embed_dim"])
    if in_channels != 3:
        _widen_input(model.visual, in_channels)
    if hasattr(model.visual, "trunk"):
        set_image_size(model.visual.trunk, model.visual.image_size)
    for tower in (model.visual, model.text if custom else model):
        if hasattr(tower, "trunk") or (by_transformers and tower is model.text):
            use_fast_linear(tower)
    if checkpointing:
        model.set_grad_checkpointing(True)
    return model


def _transformers_tower(text: Mapping[str, Any], hf_config: Mapping[str, Any] | None, embed_dim: int) -> nn.Module:
    from open_clip.hf_model import HFTextEncoder
    from transformers import AutoConfig

    config = None
    if hf_config is not None and not text["hf_model_pretrained"]:
        rest = {k: v for k, v in hf_config.items() if k != "model_type"}
        config = AutoConfig.for_model(hf_config["model_type"], **rest)
    try:
        tower = HFTextEncoder(
            text["hf_model_name"] or hf_config["model_type"],  # type: ignore[index]
            output_dim=embed_dim,
            config=config,
            pooler_type=text["hf_pooler_type"],
            proj_type=text["hf_proj_type"],
            pretrained=text["hf_model_pretrained"],
        )
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            [
                Fault(
                    "model.text_cfg.hf_model_name",
                    text["hf_model_name"],
                    f"{reason}; give hf_config=dict(model_type=...)",
                )
            ]
        ) from error
    if config is not None and text["hf_pooler_type"] != "cls_pooler" and hasattr(tower.transformer, "pooler"):
        tower.transformer.pooler = None  # as open_clip builds it by name: the layer would never be used
    return tower


def input_layer(visual: nn.Module) -> str | None:
    """Name, relative to the image tower, of the convolution that sees the bands; None where there are several."""
    if not hasattr(visual, "trunk"):
        return "conv1"
    name = first_layer(visual.trunk)
    return None if name is None else f"trunk.{name}"


def _widen_input(visual: nn.Module, in_channels: int) -> None:
    name = input_layer(visual)
    if name is None:
        told = "several layers of this image tower see the bands: it takes RGB alone"
        raise ConfigError([Fault("model.backbone.in_channels", in_channels, told)])
    old: Any = visual.get_submodule(name)
    new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
    parent, _, leaf = name.rpartition(".")
    setattr(visual.get_submodule(parent), leaf, new)


def kind_of(visual: nn.Module) -> str:
    """``vit``, ``resnet`` or ``timm``."""
    if hasattr(visual, "trunk"):
        return "timm"
    return "resnet" if hasattr(visual, "attnpool") else "vit"


# The image tower.


def vit_tokens(visual: Any, x: Tensor) -> Tensor:
    """Embedded patches with positions, class token first, after ``ln_pre``: (B, C, H, W) -> (B, 1 + L, D)."""
    grid = vit_grid(visual, x)
    conv: Any = visual.conv1  # patches do not overlap: a matrix product does the same in half of the time on CPUs
    patches = linear(patchify(x, visual.patch_size, channels_first=True), conv.weight.flatten(1), conv.bias)
    positions = resample_positions(visual.positional_embedding[None], visual.grid_size, grid, 1)
    positions = positions.to(patches.dtype)
    cls = (visual.class_embedding.to(patches.dtype) + positions[:, :1]).expand(len(patches), -1, -1)
    tokens = torch.cat([cls, patches + positions[:, 1:]], dim=1)
    return visual.ln_pre(visual.patch_dropout(tokens))


def vit_grid(visual: Any, x: Tensor) -> tuple[int, int]:
    """Rows and columns of patches of images (B, C, H, W)."""
    rows, columns = x.shape[-2:]
    if rows % visual.patch_size[0] or columns % visual.patch_size[1]:
        raise DataError(f"images of {rows} x {columns} pixels are not divisible by patches of {visual.patch_size}")
    return rows // visual.patch_size[0], columns // visual.patch_size[1]


def image_feature(visual: Any, x: Tensor, feature: str) -> Tensor:
    """``pooled`` or ``gap`` (B, D) of images (B, C, H, W); see ``CLIP``."""
    return {"vit": _vit_feature, "resnet": _resnet_feature, "timm": _timm_feature}[kind_of(visual)](visual, x, feature)


def project(visual: Any, pooled: Tensor) -> Tensor:
    """``pooled`` (B, D) -> ``projected`` (B, E)."""
    kind = kind_of(visual)
    if kind == "timm":
        # Where open_clip adds no projection, timm's classifier is it.
        own = visual.trunk.num_classes > 0
        return visual.head(visual.trunk.get_classifier()(pooled) if own else pooled)
    if kind == "resnet":
        return visual.attnpool.c_proj(pooled)
    return pooled if visual.proj is None else pooled @ visual.proj


def _vit_feature(visual: Any, x: Tensor, feature: str) -> Tensor:
    tokens = vit_tokens(visual, x)
    if feature == "gap":
        tokens = run_blocks(visual.transformer, tokens)[:, 1:]
        return (tokens if visual.attn_pool is not None else visual.ln_post(tokens)).mean(dim=1)
    if visual.attn_pool is not None:
        return _attention_pooled(visual, run_blocks(visual.transformer, tokens))
    if visual.pool_type == "tok":
        first = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        return visual.ln_post(run_blocks(visual.transformer, tokens, rows=first)[:, 0])
    tokens = run_blocks(visual.transformer, tokens)
    if visual.final_ln_after_pool:
        return visual.ln_post(tokens[:, 1:].mean(dim=1))
    return visual.ln_post(tokens)[:, 1:].mean(dim=1)


def _attention_pooled(visual: Any, tokens: Tensor) -> Tensor:
    """Pooling of CoCa ("Contrastive Captioners are Image-Text Foundation Models", Yu et al., 2022)."""
    if visual.attn_pool_contrastive is not None:
        tokens = visual.ln_post(tokens)
        source = visual.attn_pool(tokens) if visual.attn_pool_type == "cascade" else tokens
        return visual.attn_pool_contrastive(source)[:, 0]
    tokens = visual.ln_post(visual.attn_pool(tokens))
    return tokens[:, 0] if visual.pool_type == "tok" else tokens[:, 1:].mean(dim=1)


def vit_maps(visual: Any, x: Tensor, indices: Sequence[int]) -> tuple[Tensor, ...]:
    """Maps (B, D, H / p, W / p) after the blocks ``indices``; that of the last block is normed."""
    rows, columns = vit_grid(visual, x)
    tokens, maps = vit_tokens(visual, x), []
    blocks = visual.transformer.resblocks
    for index, block in enumerate(blocks[: indices[-1] + 1]):
        tokens = run_block(block, tokens)
        if index in indices:
            normed = index == len(blocks) - 1 and visual.attn_pool is None
            patches = (visual.ln_post(tokens) if normed else tokens)[:, 1:]
            maps.append(patches.transpose(1, 2).unflatten(2, (rows, columns)))
    return tuple(maps)


def resnet_maps(visual: Any, x: Tensor) -> list[Tensor]:
    """Maps of the four stages of open_clip's ``ModifiedResNet``, 1/4 to 1/32 of the input."""
    maps = [visual.stem(x)]
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        maps.append(stage(maps[-1]))
    return maps[1:]


def _resnet_feature(visual: Any, x: Tensor, feature: str) -> Tensor:
    """``pooled`` is the mix of values that the attention pool finds, before its output projection."""
    last = resnet_maps(visual, x)[-1]
    if feature == "gap":
        return last.mean(dim=(2, 3))
    pool = visual.attnpool
    tokens = last.flatten(2).transpose(1, 2)
    tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
    side = round((len(pool.positional_embedding) - 1) ** 0.5)
    positions = resample_positions(pool.positional_embedding[None], (side, side), (last.shape[2], last.shape[3]), 1)
    tokens = tokens + positions.to(tokens.dtype)
    q, k, v = pool.q_proj(tokens[:, :1]), pool.k_proj(tokens), pool.v_proj(tokens)
    q, k, v = (t.unflatten(2, (pool.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    return attend(q, k, v).transpose(1, 2).flatten(1)


def _timm_feature(visual: Any, x: Tensor, feature: str) -> Tensor:
    trunk = visual.trunk
    features = trunk.forward_features(x)
    return mean_of_places(trunk, features) if feature == "gap" else trunk.forward_head(features, pre_logits=True)


# The text tower.


def needs_whole_context(holder: Any) -> bool:
    """Whether a text's embedding changes with the padding behind it, so that all are padded to the same length.

    With a causal mask nothing behind the end token is seen, and transformers' towers mask padding. The rest (SigLIP,
    MobileCLIP, CoCa) looks at padding, and is what it is only at the length that it was trained with.
    """
    if hasattr(holder, "pooler"):
        return False
    pool = getattr(holder, "text_pool_type", None) or holder.pool_type
    return getattr(holder, "attn_mask", None) is None or pool == "last" or getattr(holder, "cls_emb", None) is not None


def text_feature(holder: Any, ids: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    """Projected embedding (B, E) of texts.

    Args:
        holder: the CLIP itself, open_clip's text tower or its adapter to transformers.
        ids: (B, T) int64 token ids.
        mask: (B, T) bool, True at tokens.
        pad_id: id behind the texts.
    """
    if hasattr(holder, "pooler"):
        mask = mask.to(ids.device)
        ids = ids.masked_fill(~mask, holder.config.pad_token_id)
        seen = mask.long()
        found = holder.transformer(input_ids=ids, attention_mask=seen)
        return holder.proj(holder.pooler(found, seen))
    whole, length = needs_whole_context(holder), holder.context_length
    if ids.shape[1] > length:
        raise DataError(f"texts of {ids.shape[1]} tokens, but the tower takes at most {length}")
    if whole and ids.shape[1] < length:
        ids = nn.functional.pad(ids, (0, length - ids.shape[1]), value=pad_id)
    if getattr(holder, "cls_emb", None) is not None or not is_plain(holder.transformer.resblocks[0]):
        return _own_forward(holder, ids)
    x = nn.functional.embedding(ids, holder.token_embedding.weight) + holder.positional_embedding[: ids.shape[1]]
    rows = end_places(holder, ids)
    x = run_blocks(holder.transformer, x, causal=holder.attn_mask is not None, rows=rows)
    return _projected(holder, holder.ln_final(x[:, 0]))


def _own_forward(holder: Any, ids: Tensor) -> Tensor:
    if hasattr(holder, "_embeds"):  # open_clip's tower as a module of its own
        return holder(ids)
    length = ids.shape[1]
    x = holder.token_embedding(ids) + holder.positional_embedding[:length]
    mask = None if holder.attn_mask is None else holder.attn_mask[:length, :length]
    x = take_rows(holder.transformer(x, attn_mask=mask), end_places(holder, ids))
    return _projected(holder, holder.ln_final(x[:, 0]))


def _projected(holder: Any, pooled: Tensor) -> Tensor:
    projection = holder.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection


def end_places(holder: Any, ids: Tensor) -> Tensor:
    """Place (B,) of the token that stands for a text, by open_clip's rule of the tower."""
    pool = getattr(holder, "text_pool_type", None) or holder.pool_type
    if pool == "first":
        return ids.new_zeros(len(ids))
    if pool == "last":
        return ids.new_full((len(ids),), ids.shape[1] - 1)
    if pool == "argmax":
        return ids.argmax(dim=1)
    end = getattr(holder, "text_eos_id", None)
    return (ids == (holder.eos_id if end is None else end)).int().argmax(dim=1)

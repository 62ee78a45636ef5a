"""Which towers a CLIP has: open_clip's names and configs, resolved and checked before anything is built."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

from perception.backbones.timm_tools import timm_patch, unknown_model
from perception.backbones.vit import pair
from perception.errors import ConfigError, Fault, nearest

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
LOCAL, HUB = "local-dir:", "hf-hub:"
# Keys of a model config beside the two towers', with their defaults.
_TOP = {
    "embed_dim": None,
    "vision_cfg": None,
    "text_cfg": None,
    "quick_gelu": None,
    "custom_text": False,
    "init_logit_scale": 2.6592600369327783,  # ln(1 / 0.07)
    "init_logit_bias": None,
    "nonscalar_logit_scale": False,
    "multimodal_cfg": None,
}
# What the state dict shows by its shapes, or what may differ between two trainings of the same towers.
_FREE = frozenset(
    [
        *("image_size", "patch_size", "layers", "width", "vocab_size", "context_length"),
        *("patch_dropout", "timm_drop", "timm_drop_path", "timm_model_pretrained", "hf_model_pretrained"),
        *("output_tokens", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"),
    ]
)
# Shapes of text towers on the hub, so that they are built without asking it.
_XLM_R = {
    "model_type": "xlm-roberta",
    "vocab_size": 250002,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
HF_CONFIGS: dict[str, dict[str, Any]] = {
    "xlm-roberta-base": _XLM_R,
    "xlm-roberta-large": {**_XLM_R, **_LARGE},
    "roberta-base": {**_XLM_R, "model_type": "roberta", "vocab_size": 50265},
}


@cache
def model_names() -> tuple[str, ...]:
    """Names of all models that open_clip describes."""
    import open_clip

    return tuple(open_clip.list_models())


def resolve(model: str | Mapping[str, Any], quick_gelu: bool | None, image_size: Any = None) -> dict[str, Any]:
    """The whole config of a model, with open_clip's defaults filled in.

    Args:
        model: open_clip's name (``ViT-B-32``), ``local-dir:<folder with open_clip_config.json>``, ``hf-hub:<name>``
            (asks the network) or a dict with ``embed_dim``, ``vision_cfg`` and ``text_cfg``.
        quick_gelu: overrides the config's.
        image_size: overrides the config's.

    Returns:
        ``embed_dim``, ``vision_cfg``, ``text_cfg``, ``quick_gelu`` and the rest of ``_TOP``; ``explicit_gelu`` tells
        whether somebody chose the activation.

    Raises:
        ConfigError: faults under ``model``.
    """
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    given = deepcopy(dict(model)) if isinstance(model, Mapping) else _by_name(model)
    faults = list(_unknown("model", given, _TOP))
    for key, cls, extra in (("vision_cfg", CLIPVisionCfg, ()), ("text_cfg", CLIPTextCfg, ("hf_config",))):
        tower = given.get(key)
        if not isinstance(tower, Mapping):
            faults.append(Fault(f"model.{key}", tower, "a model needs this dict"))
        else:
            faults += _unknown(f"model.{key}", tower, [*(f.name for f in fields(cls)), *extra])
    if not isinstance(given.get("embed_dim"), int) or given["embed_dim"] < 1:
        faults.append(Fault("model.embed_dim", given.get("embed_dim"), "must be a whole number of at least 1"))
    if faults:
        raise ConfigError(faults)
    hf_config = given["text_cfg"].pop("hf_config", None)
    vision, text = asdict(CLIPVisionCfg(**given["vision_cfg"])), asdict(CLIPTextCfg(**given["text_cfg"]))
    if image_size is not None:
        vision["image_size"] = image_size
    if "hf_model_pretrained" not in given["text_cfg"]:
        text["hf_model_pretrained"] = False  # open_clip downloads by default; here nobody does unless asked to
    for free in ("vocab_size", "context_length"):
        if free not in given["text_cfg"] and isinstance(model, Mapping):
            text[free] = None  # the tokenizer's
    text["hf_config"] = hf_config or HF_CONFIGS.get(str(text["hf_model_name"]))
    chosen = given.get("quick_gelu") if quick_gelu is None else quick_gelu
    return {
        **_TOP,
        **given,
        "vision_cfg": vision,
        "text_cfg": text,
        "quick_gelu": bool(chosen),
        "explicit_gelu": chosen is not None,
    }


def _by_name(name: str) -> dict[str, Any]:
    if name.startswith(LOCAL):
        file = Path(name.removeprefix(LOCAL)).expanduser() / "open_clip_config.json"
        try:
            loaded = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError([Fault("model", name, f"{file} is not readable: {error}")]) from error
        return dict(loaded.get("model_cfg", loaded))
    if name.startswith(HUB):
        from open_clip.factory import get_model_config

        return dict(get_model_config(name))
    import open_clip

    found = open_clip.get_model_config(name.replace("/", "-"))
    if found is None:
        near = nearest(name, model_names())
        raise ConfigError([Fault("model", name, "open_clip has no model of that name", near)])
    return found


def _unknown(where: str, given: Mapping[str, Any], known: Iterable[str]) -> Iterable[Fault]:
    names = list(known)
    for key, value in given.items():
        if key not in names:
            yield Fault(f"{where}.{key}", value, "open_clip's config has no such key", nearest(key, names))


def faults_of(cfg: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Sizes of a resolved config that cannot be built, as (key, message)."""
    yield from _vision_faults(cfg["vision_cfg"])
    yield from _text_faults(cfg["text_cfg"])


def _vision_faults(vision: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    size, place = vision["image_size"], "model.vision_cfg"
    sizes = (size, size) if isinstance(size, int) else tuple(size)
    if vision["timm_model_name"]:
        wrong = unknown_model(vision["timm_model_name"])
        if wrong:
            yield f"{place}.timm_model_name", wrong
        return
    if isinstance(vision["layers"], (list, tuple)):
        if len(vision["layers"]) != 4:
            yield f"{place}.layers", "a ResNet has four stages: give four numbers of blocks"
        if any(s % 32 for s in sizes):
            yield f"{place}.image_size", "must be a multiple of 32, by which a ResNet shrinks images"
        if (vision["width"] * 32) % vision["head_width"]:
            yield f"{place}.head_width", f"does not divide the {vision['width'] * 32} channels of the last stage"
        return
    for key in ("layers", "width", "head_width", "patch_size"):
        if not isinstance(vision[key], int) or vision[key] < 1:
            yield f"{place}.{key}", "must be a whole number of at least 1"
            return
    if vision["width"] % vision["head_width"]:
        yield f"{place}.head_width", f"does not divide width = {vision['width']}"
    if any(s < 1 or s % vision["patch_size"] for s in sizes):
        yield f"{place}.image_size", f"{size!r} is not divisible by patch_size = {vision['patch_size']}"
    if vision["pool_type"] not in ("tok", "avg", "none"):
        yield f"{place}.pool_type", "must be 'tok', 'avg' or 'none'"


def patch_of(vision: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of the patches of an image tower; 1 where it is a ResNet."""
    if vision["timm_model_name"]:
        return timm_patch(vision["timm_model_name"])
    return (1, 1) if isinstance(vision["layers"], (list, tuple)) else pair(vision["patch_size"])


def _text_faults(text: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    place = "model.text_cfg"
    if text["hf_model_name"] or text["hf_config"]:
        if text["hf_config"] is not None and "model_type" not in text["hf_config"]:
            yield f"{place}.hf_config", "needs the key 'model_type', such as 'xlm-roberta'"
        if text["hf_proj_type"] not in ("linear", "mlp", None):
            yield f"{place}.hf_proj_type", "must be 'linear', 'mlp' or None"
        return
    for key in ("layers", "width", "heads"):
        if not isinstance(text[key], int) or text[key] < 1:
            yield f"{place}.{key}", "must be a whole number of at least 1"
            return
    if text["width"] % text["heads"]:
        yield f"{place}.heads", f"does not divide width = {text['width']}"
    for key in ("vocab_size", "context_length"):
        if text[key] is not None and (not isinstance(text[key], int) or text[key] < 2):
            yield f"{place}.{key}", "must be a whole number of at least 2"
    if text["pool_type"] not in ("first", "last", "argmax", "eos"):
        yield f"{place}.pool_type", "must be 'first', 'last', 'argmax' or 'eos'"


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What two resolved configs differ in that no shape of a tensor shows: activation, heads, pooling, masks, norms."""
    found = []
    if mine["quick_gelu"] != theirs["quick_gelu"]:
        found.append(f"quick_gelu: {theirs['quick_gelu']} there, {mine['quick_gelu']} here")
    for tower in ("vision_cfg", "text_cfg"):
        for key, value in mine[tower].items():
            other = theirs[tower].get(key)
            if key not in _FREE and _plain(value) != _plain(other):
                found.append(f"{tower}.{key}: {other!r} there, {value!r} here")
    return found


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value)) if isinstance(value, (dict, list, tuple)) else value


def gelu_matters(cfg: Mapping[str, Any]) -> bool:
    """Whether either tower has the activation that ``quick_gelu`` chooses: timm's, ResNets, transformers' do not."""
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    in_image = not vision["timm_model_name"] and not isinstance(vision["layers"], (list, tuple))
    return in_image or not (text["hf_model_name"] or text["hf_config"])


def size_of(image_size: Any, record: Any) -> Any:
    """Image size that a config asks for: its own word, else that of its Preprocess record, else None."""
    if image_size is None and record is not None:
        image_size = record.get("size") if isinstance(record, Mapping) else record.size
    if image_size is None or isinstance(image_size, int):
        return image_size
    return image_size[0] if image_size[0] == image_size[1] else tuple(image_size)


def default_record(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocess record of a model that open_clip describes: CLIP's statistics, and the tokenizer that it names."""
    text = cfg["text_cfg"]
    timm_like = cfg["init_logit_bias"] is not None  # SigLIP
    length = {"context_length": text["context_length"] or 77}
    name = text["hf_tokenizer_name"] or text["hf_model_name"]
    tokenizer: dict[str, Any] = {"type": "CLIPTokenizer", **length}
    if name:
        tokenizer = {"type": "HFTokenizer", "name": name, **length, **(text["tokenizer_kwargs"] or {})}
    return {
        "type": "ImageTextPreprocess",
        "size": cfg["vision_cfg"]["image_size"],
        "mean": (0.5,) * 3 if timm_like else CLIP_MEAN,
        "std": (0.5,) * 3 if timm_like else CLIP_STD,
        "tokenizer": tokenizer,
    }


def fit_to_tokenizer(text: dict[str, Any], tokenizer: Any) -> None:
    """Fill the sizes that a text config leaves to its tokenizer, and refuse a tokenizer that cannot feed the tower.

    Raises:
        ConfigError: ids or lengths beyond the tower's, or another end or padding than it looks for.
    """
    where = "model.backbone.preprocess.tokenizer"
    if text["hf_model_name"] or text["hf_config"]:
        sizes = text["hf_config"] or {}
        if tokenizer is not None and sizes.get("pad_token_id", tokenizer.pad_id) != tokenizer.pad_id:
            told = f"its padding is {tokenizer.pad_id}, the text tower's pad_token_id {sizes['pad_token_id']}"
            raise ConfigError([Fault(where, repr(tokenizer), told)])
        limits = {"vocab_size": sizes.get("vocab_size"), "context_length": sizes.get("max_position_embeddings")}
    else:
        for key in ("vocab_size", "context_length"):
            if text[key] is None:
                if tokenizer is None:
                    raise ConfigError([Fault(f"model.backbone.model.text_cfg.{key}", None, "give it, or a tokenizer")])
                text[key] = getattr(tokenizer, key)
        limits = {key: text[key] for key in ("vocab_size", "context_length")}
    if tokenizer is None:
        return
    for key, limit in limits.items():
        if limit is not None and getattr(tokenizer, key) > limit:
            told = f"its {key} is {getattr(tokenizer, key)}, the text tower's {limit}"
            raise ConfigError([Fault(where, repr(tokenizer), told)])
    if text["hf_model_name"] or text["hf_config"]:
        return
    if text["pool_type"] == "eos" and tokenizer.end_id != text["eos_id"]:
        told = f"its end token is {tokenizer.end_id}, the text tower looks for eos_id = {text['eos_id']}"
        raise ConfigError([Fault(where, repr(tokenizer), told)])
    if text["pool_type"] == "argmax" and tokenizer.end_id != tokenizer.vocab_size - 1:
        told = f"its end token {tokenizer.end_id} is not its highest id, by which the text tower finds the end"
        raise ConfigError([Fault(where, repr(tokenizer), told)])


def value_at(cfg: Mapping[str, Any], key: str) -> Any:
    """Value below a dotted key."""
    value: Any = cfg
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def check(cfg: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Faults of a ``CLIP``'s arguments that can be seen before anything is built, as (dotted key, message)."""
    size = cfg["image_size"]
    try:
        size = size_of(size, cfg["preprocess"])
        if size is not None and min(pair(size)) < 1:
            raise ValueError
    except (TypeError, ValueError, IndexError):
        yield "image_size", "must be a positive number of pixels or a pair (rows, columns)"
        return
    try:
        resolved = resolve(cfg["model"], cfg["quick_gelu"], size)
    except ConfigError as error:
        for fault in error.faults:
            near = f"; did you mean {' or '.join(map(repr, fault.nearest))}?" if fault.nearest else ""
            yield fault.path, f"{fault.message}{near}"
        return
    name = cfg["model"]
    if isinstance(name, str) and name.endswith("-quickgelu") and cfg["quick_gelu"] is False:
        yield "quick_gelu", f"contradicts the name {name!r}"
    yield from faults_of(resolved)
    if not isinstance(cfg["in_channels"], int) or cfg["in_channels"] < 1:
        yield "in_channels", "must be a whole number of at least 1"
    vision = resolved["vision_cfg"]
    if not vision["timm_model_name"]:
        depth = 4 if isinstance(vision["layers"], (list, tuple)) else vision["layers"]
        if not cfg["out_indices"] or any(not -depth <= i < depth for i in cfg["out_indices"]):
            yield "out_indices", f"must name blocks between {-depth} and {depth - 1}"
    record = cfg["preprocess"]
    if record is None:
        if cfg["in_channels"] != 3:
            yield "preprocess", f"must be given for in_channels = {cfg['in_channels']}: the default record is for RGB"
        return
    bands = record.get("mean", (0.0,) * 3) if isinstance(record, Mapping) else record.mean  # three by default
    if len(bands) != cfg["in_channels"]:
        yield "preprocess", f"has {len(bands)} band means, but in_channels = {cfg['in_channels']}"
    own = record.get("size") if isinstance(record, Mapping) else record.size
    if own is not None and pair(own) != pair(vision["image_size"]):
        yield "preprocess", f"makes images of {pair(own)}, but image_size = {vision['image_size']!r}"

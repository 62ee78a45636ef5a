"""A CLIP as a folder that open_clip reads: ``open_clip.create_model('local-dir:<folder>')``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perception.errors import PerceptionError

CONFIG_FILE, WEIGHTS_FILE, TEXT_FOLDER = "open_clip_config.json", "open_clip_model.safetensors", "text"


def write_open_clip(backbone: Any, folder: str | Path) -> Path:
    """Write config, weights and, of a text tower of transformers, its config.

    The whole Preprocess record lies in the config under ``perception``: open_clip has no words for a vocabulary of our
    own.

    Args:
        backbone: a ``CLIP``.
        folder: to be created.

    Returns:
        The folder, absolute: open_clip finds a text tower of transformers by it.

    Raises:
        PerceptionError: the folder exists, or open_clip cannot describe the model: other bands than RGB, or a vision
            transformer of timm at another image size than its own.
    """
    from safetensors.torch import save_file

    folder = Path(folder).expanduser().resolve()
    if folder.exists():
        raise PerceptionError(f"{folder} exists; give another folder")
    model, record = model_config(backbone, folder), backbone.preprocess
    if len(record.bands) != 3 or record.value_scale != 255 or record.clip is not None:
        raise PerceptionError(f"open_clip reads RGB of 8 bits, not {record.bands} of values to {record.value_scale:g}")
    statistics = {"size": list(record.shape), "mean": list(record.mean), "std": list(record.std)}
    interpolation = record.interpolation.removesuffix("-corners")
    config = {
        "model_cfg": model,
        "preprocess_cfg": {**statistics, "interpolation": interpolation, "resize_mode": "shortest"},
        "perception": {"preprocess": record.record()},
    }
    folder.mkdir(parents=True)
    state = {key: value.detach().cpu().contiguous().clone() for key, value in backbone.state_dict().items()}
    save_file(state, str(folder / WEIGHTS_FILE), metadata={"format": "pt"})
    if model["text_cfg"].get("hf_model_name"):
        backbone.text.config.save_pretrained(folder / TEXT_FOLDER)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return folder


def model_config(backbone: Any, folder: Path) -> dict[str, Any]:
    """open_clip's ``model_cfg``, with QuickGELU said in any case."""
    cfg = backbone.model_config
    kept = {k: cfg[k] for k in ("embed_dim", "quick_gelu", "init_logit_bias", "nonscalar_logit_scale")}
    vision, text = dict(cfg["vision_cfg"]), {k: v for k, v in cfg["text_cfg"].items() if k != "hf_config"}
    trunk = getattr(backbone.visual, "trunk", None)
    if trunk is not None and getattr(trunk, "pos_embed", None) is not None:
        native = trunk.default_cfg["input_size"][1:]
        if tuple(trunk.patch_embed.img_size) != tuple(native):
            raise PerceptionError(
                f"open_clip builds {vision['timm_model_name']} for {native} pixels alone, and this one is made for "
                f"{tuple(trunk.patch_embed.img_size)}"
            )
    if cfg["text_cfg"]["hf_config"] is not None or text["hf_model_name"]:
        text.update(hf_model_name=str(folder / TEXT_FOLDER), hf_model_pretrained=False)
    custom = "text" in backbone._modules
    drop = {k for k, v in {**vision, **text}.items() if v is None}
    return {
        **{k: v for k, v in kept.items() if v is not None},
        "custom_text": custom,
        "vision_cfg": {k: v for k, v in vision.items() if k not in drop or k == "timm_proj"},
        "text_cfg": {k: v for k, v in text.items() if k not in drop or k == "hf_proj_type"},
    }

"""Weights of speech encoders as transformers writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from perception.errors import ConfigError, Fault


def own_keys(state: Mapping[str, Tensor], architecture: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of transformers' task models without their prefix and heads, and older names of the weight norm.

    Args:
        state: weights of a plain model or of one with a head.
        architecture: the prefix, such as ``wav2vec2``.
        own: weights of the encoder they are for; parts that public files may lack keep these.
    """
    prefix = architecture + "."
    wrapped = any(key.startswith(prefix) for key in state)
    out = {}
    for key, value in state.items():
        if wrapped and not key.startswith(prefix) and key != "layer_weights":
            continue  # a head
        name = key.removeprefix(prefix)
        name = re.sub(r"weight_g$", "parametrizations.weight.original0", name)
        out[re.sub(r"weight_v$", "parametrizations.weight.original1", name)] = value
    # Models without masking have no vector for it, and plain models no weights of layers.
    for key in ("masked_spec_embed", "layer_weights"):
        if key in own and key not in out:
            out[key] = own[key]
        elif key not in own:
            out.pop(key, None)
    return out


def public_state(source: str) -> tuple[dict[str, Tensor], str]:
    """Weights of a folder of transformers, or of a name on its hub, which is downloaded, and their file.

    Raises:
        ConfigError: neither, or no safetensors in it.
    """
    from safetensors.torch import load_file

    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(source, allow_patterns=["config.json", "model.safetensors"]))
        except Exception as error:  # no network, no such name, ...: the hub's own words say which
            text = f"neither a folder nor a name that the hub gives: {error}"
            raise ConfigError([Fault("model.backbone.pretrained", source, text)]) from error
    file = folder / "model.safetensors"
    if not file.is_file():
        text = "has no model.safetensors; save it with transformers' save_pretrained(safe_serialization=True)"
        raise ConfigError([Fault("model.backbone.pretrained", source, text)])
    return load_file(file), str(file)

"""Public weights of a whole pre-training model, decoder included, as a checkpoint that ``load_from`` takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from perception.backbones.video_state import fit_biases, to_official
from perception.checkpoint import load_checkpoint, load_state, save_checkpoint
from perception.errors import CheckpointError, ConfigError
from perception.registry import MODELS

_BACKBONE = "backbone."


def whole_checkpoint(weights: str | Path, config: Mapping[str, Any], out: str | Path) -> tuple[int, list[str]]:
    """Turn a file of masked video weights into a checkpoint of ``config``'s Pretrainer.

    Fine-tuning by the pre-training task goes on with the decoder that the encoder was trained with: at a rate of 5e-7
    a new one would never learn.

    Args:
        weights: ``.safetensors`` file, or one of torch that holds a state dict, bare or under ``state_dict`` or
            ``model``, in the names of VideoMAE, of transformers' ``VideoMAEForPreTraining`` or of mae_st.
        config: whole config with a Pretrainer of one pretext.
        out: the ``.pth`` file to write.

    Returns:
        Number of tensors in the checkpoint, and the keys that the model has no place for.

    Raises:
        ConfigError: the model has not one pretext.
        CheckpointError: a weight is missing or of another shape, or ``out`` exists.
    """
    from safetensors.torch import load_file

    file, target = Path(weights), Path(out)
    pretexts = config["model"].get("pretexts") or {}
    if len(pretexts) != 1:
        raise ConfigError(f"a whole checkpoint is of a Pretrainer with one pretext, not of {len(pretexts)}")
    if target.exists():
        raise CheckpointError(f"{target} exists; give another file")
    loaded: Mapping[str, Any] = load_file(file) if file.suffix == ".safetensors" else load_checkpoint(file)
    tensors = loaded.get("state_dict", loaded.get("model", loaded))
    named = {k.removeprefix("module."): v for k, v in tensors.items() if isinstance(v, Tensor)}
    plan = json.loads(json.dumps(config["model"]))
    plan["backbone"].pop("init_from", None)
    model = MODELS.build(plan)
    pretext = f"pretexts.{next(iter(pretexts))}."
    own = model.state_dict()
    bare = {key.removeprefix(_BACKBONE).removeprefix(pretext): key for key in own}
    state = fit_biases(to_official(named), bare)
    found = {bare[key]: value for key, value in model.backbone.adapt_state(state).items() if key in bare}
    load_state(model, found, str(file))
    record = model.backbone.preprocess.record()
    meta = {"config": json.dumps(config), "preprocess": record}
    save_checkpoint({"meta": meta, "state_dict": dict(model.state_dict())}, target)
    return len(own), sorted(key for key in state if key not in bare)

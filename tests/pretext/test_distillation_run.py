"""Self-distillation through the engine: a run that is cut ends with the weights, teacher and centre of a whole one."""

from __future__ import annotations

import pytest
import torch
from mmengine.hooks import Hook

from perception.checkpoint import find_checkpoint, load_checkpoint
from perception.config import load_config
from perception.engine.api import build_runner, train
from perception.validation import validate_config

CROPS = dict(type="MultiCrop", size=8, local_size=4, global_views=2, local_views=2, flip=False, turn=False)
DISTIL = dict(type="SelfDistillation", prototypes=32, hidden_dim=24, bottleneck_dim=8, warmup_epochs=0.2, momentum=0.9)


class CutAfter(Hook):
    """Leaves the run between two steps, after what is saved there."""

    priority = 95

    def after_step(self, runner) -> None:
        if runner.iter == 6:
            raise KeyboardInterrupt


def config(**changes):
    cfg = load_config("image/mae_vit-tiny_digits")
    cfg.model.pretexts = dict(distil=DISTIL)
    cfg.model.backbone.update(drop_rate=0.1)
    cfg.train_dataloader.dataset.transforms = [CROPS]
    cfg.train_cfg = dict(type="TrainLoop", max_iters=10)
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.optim_wrapper.dtype = "bfloat16"
    cfg.default_hooks.checkpoint.every_steps = 2
    cfg.pop("evaluation")
    cfg.update(changes)
    return cfg


def test_config_is_valid_and_faults_are_named():
    assert validate_config(config()) == []
    cfg = config()
    cfg.model.pretexts.distil.momentum = 2
    cfg.train_dataloader.dataset.transforms[0].local_scale = (0.5, 0.1)
    paths = {fault.path for fault in validate_config(cfg)}
    assert paths == {"model.pretexts.distil.momentum", "train_dataloader.dataset.transforms.0.local_scale"}


def test_cut_and_resumed_is_exactly_the_whole_run(tmp_path):
    train(config(), tmp_path / "whole", seed=0)
    runner = build_runner(config(), tmp_path / "cut", 0)
    runner.register_hook(CutAfter())
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    seen = {id(p) for group in runner.optim_wrapper.param_groups for p in group["params"]}
    held = runner.bare_model.pretexts["distil"].state_dict(keep_vars=True)
    assert not any(id(t) in seen for name, t in held.items() if name.startswith(("teacher.", "centre")))
    assert id(held["head.last_layer.weight_v"]) in seen
    summary = train(config(), tmp_path / "cut", seed=0, resume=True)
    assert summary["resumed_at"] == 6
    cut, whole = (load_checkpoint(find_checkpoint(tmp_path / name))["state_dict"] for name in ("cut", "whole"))
    assert cut.keys() == whole.keys() and all(torch.equal(cut[k], whole[k]) for k in whole)
    assert whole["pretexts.distil.centre"].abs().max() > 0
    student, teacher = (
        whole[f"{p}blocks.0.attn.qkv.weight"] for p in ("backbone.", "pretexts.distil.teacher.backbone.")
    )
    assert not torch.equal(student, teacher)
    assert list((tmp_path / "whole" / "pictures").glob("self_distillation_features_*.png"))

import json
from types import SimpleNamespace

import pytest
import torch
from tiny import DRIVING, DUAL_ENCODER, SPEECH, VIDEO, TinyBackbone, same_weights, tiny_config

from perception.config import load_config
from perception.engine.api import build_runner
from perception.engine.probe_hook import OnlineProbe
from perception.errors import ConfigError
from perception.evaluation.features import build_dataset, extract
from perception.evaluation.knn import KNN
from perception.evaluation.protocol import Splits

SETS = {"train": {"type": "TinyVectors", "size": 40}, "val": {"type": "TinyVectors", "size": 25}}


def trained(folder, *hooks, **changes):
    """The runner after training, without the final evaluation."""
    cfg = tiny_config(model={"type": "TinyModel", "norm": True}, custom_hooks=list(hooks), evaluation=SETS, **changes)
    runner = build_runner(cfg, folder, seed=3)
    runner.train()
    return runner


def logged(folder, name: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "scalars.jsonl").read_text().splitlines()]
    return [(line["step"], line[name]) for line in lines if name in line]


@pytest.mark.parametrize("by_epoch", [True, False])
def test_training_does_not_notice_the_probe(tmp_path, by_epoch):
    # Dropout, batch norm, augmentation and noise from all three global generators are on.
    hook = {"type": "OnlineProbe", "interval": 2, "protocol": {"type": "KNN", "k": 5}, "by_epoch": by_epoch}
    plain, probed = trained(tmp_path / "plain"), trained(tmp_path / "probed", hook)
    assert same_weights(plain.bare_model.state_dict(), probed.bare_model.state_dict())
    losses = [logged(folder, "loss_label") for folder in (tmp_path / "plain", tmp_path / "probed")]
    assert losses[0] == losses[1] and losses[0]
    steps = [step for step, _ in logged(tmp_path / "probed", "probe/knn")]
    assert steps == ([10, 20] if by_epoch else list(range(2, 21, 2)))


def test_a_dual_encoder_with_a_teacher_does_not_notice_it_either(tmp_path):
    found = []
    for hooks in ([], [dict(type="OnlineProbe", interval=1, protocol=dict(type="Retrieval"), by_epoch=False)]):
        cfg = load_config(DUAL_ENCODER["config"], [*DUAL_ENCODER["overrides"], "train_cfg.max_epochs=1"])
        cfg.evaluation = dict(val=dict(type="LandCover", split="val", count=24), protocols={})
        cfg.custom_hooks = hooks
        runner = build_runner(cfg, tmp_path / str(len(hooks)), seed=3)
        runner.train()
        found.append(runner.bare_model.state_dict())
    assert same_weights(*found) and "pretexts.distill.centre" in found[0]
    assert [step for step, _ in logged(tmp_path / "1", "probe/retrieval")] == [1, 2, 3, 4, 5]


PLACES = dict(
    type="DrivingScenes",
    cameras=False,
    beams=16,
    azimuths=128,
    transforms=[dict(type="QueryBoxes", background=4, extent=30.0)],
)


@pytest.mark.parametrize(
    ("options", "size", "data", "few"),
    [
        (DRIVING, dict(count=20), PLACES, (dict(count=6), dict(count=4))),
        (VIDEO, dict(count=40), dict(type="MovingDigits"), (dict(count=6), dict(count=4))),
        (SPEECH, dict(speakers=4), dict(type="SpokenVarieties", sample_rate=8000), (dict(speakers=4),) * 2),
    ],
    ids=["points", "clips", "waveforms"],
)
def test_other_modalities_do_not_notice_it_either(tmp_path, options, size, data, few):
    found = []
    for name in ("plain", "probed"):
        cfg = load_config(options["config"], [*options["overrides"], "train_cfg.max_epochs=1"])
        cfg.train_dataloader.dataset.update(size)
        cfg.evaluation = dict(
            train=dict(**data, split="train", **few[0]), val=dict(**data, split="val", **few[1]), protocols={}
        )
        probes = [dict(type="OnlineProbe", interval=2, protocol=dict(type="KNN", k=3), by_epoch=False)]
        cfg.custom_hooks = [*options.get("hooks", []), *(probes if name == "probed" else [])]
        runner = build_runner(cfg, tmp_path / name, seed=3)
        runner.train()
        found.append(runner.bare_model.state_dict())
    assert same_weights(*found)
    probes = logged(tmp_path / "probed", "probe/knn")
    assert [step for step, _ in probes][:2] == [2, 4] and all(0 <= value <= 1 for _, value in probes)


def test_the_figure_is_the_protocols_own(tmp_path):
    hook = {"type": "OnlineProbe", "interval": 4, "protocol": {"type": "KNN", "k": 5}, "name": "near"}
    runner = trained(tmp_path, hook)
    train, val = (extract(runner.bare_model.backbone, build_dataset(SETS[s]))["backbone"] for s in ("train", "val"))
    expected = KNN(k=5).run(Splits(train=train, test=val), 0)[0].value
    assert logged(tmp_path, "probe/near") == [(20, expected)]


def test_linear_protocols_and_variants_work_online(tmp_path):
    hooks = [
        {"type": "OnlineProbe", "interval": 4, "protocol": {"type": "LinearLBFGS"}},
        {"type": "OnlineProbe", "interval": 4, "protocol": {"type": "LowShot", "per_class": [2, 3]}},
    ]
    trained(tmp_path, *hooks)
    assert len(logged(tmp_path, "probe/linearlbfgs")) == 1
    assert len(logged(tmp_path, "probe/lowshot/2_per_class")) == 1


def test_thinning_takes_evenly_spaced_samples():
    seen = {}

    class Spy(KNN):
        def run(self, data, seed):
            seen.update(train=data.train.index.tolist(), val=data.test.index.tolist())
            return super().run(data, seed)

    hook = OnlineProbe(max_samples=10, protocol={"type": Spy, "k": 1})
    hook.datasets = {name: build_dataset(cfg) for name, cfg in SETS.items()}
    backbone = TinyBackbone()
    runner = SimpleNamespace(
        rank=0, seed=0, epoch=1, iter=1, bare_model=SimpleNamespace(backbone=backbone), log_scalars=lambda values: None
    )
    before = torch.get_rng_state()
    value = hook.probe(runner)
    assert 0 <= value <= 1 and torch.equal(before, torch.get_rng_state())
    assert seen["train"] == list(range(0, 40, 4)) and seen["val"] == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]


def test_missing_splits_are_named_before_training(tmp_path):
    hook = {"type": "OnlineProbe", "interval": 1}
    cfg = tiny_config(custom_hooks=[hook])
    with pytest.raises(ConfigError, match=r"evaluation\.train and evaluation\.val"):
        build_runner(cfg, tmp_path, seed=0).train()
    assert dict(OnlineProbe.check_config({"interval": 0, "max_samples": None}))

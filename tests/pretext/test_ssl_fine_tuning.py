"""Self-supervised fine-tuning from a run: at rate 0 nothing moves, at a small one unseen clips are filled in better."""

import json

import torch

from perception.checkpoint import load_checkpoint
from perception.engine.api import train
from perception.registry import DATASETS, MODELS

CLIPS = dict(type="MovingDigits", task="direction", split="pretrain")
MODEL = dict(
    type="Pretrainer",
    backbone=dict(
        type="VideoViT",
        image_size=32,
        frames=8,
        patch_size=16,
        embed_dim=32,
        depth=1,
        num_heads=2,
        preprocess=dict(type="VideoPreprocess", size=(32, 32), frames=8, stride=1),
    ),
    pretexts=dict(
        video_mae=dict(
            type="VideoMAE",
            mask="shuffle",
            mask_ratio=0.85,
            target="raw",
            decoder_dim=32,
            decoder_depth=1,
            decoder_num_heads=2,
        )
    ),
)


def config(lr, steps, load_from=None):
    return dict(
        model=MODEL,
        train_dataloader=dict(batch_size=16, dataset=dict(**CLIPS, count=96)),
        train_cfg=dict(type="TrainLoop", max_iters=steps),
        optim_wrapper=dict(constructor="LayerDecay", optimizer=dict(type="AdamW", lr=lr, weight_decay=0.05)),
        param_scheduler=dict(type="LinearDecay"),
        custom_hooks=[dict(type="ParameterDistance", interval=2)],
        load_from=load_from,
    )


def weights(run):
    return load_checkpoint(next((run / "checkpoints").glob("step_*.pth")))["state_dict"]


def held_out_loss(state):
    """On clips that no run has seen, under the same masks."""
    model = MODELS.build(MODEL)
    model.load_state_dict(state)
    data = DATASETS.build(dict(type="MovingDigits", task="direction", split="test", count=64))
    torch.manual_seed(0)
    with torch.no_grad():
        return float(model.eval()(*model.data_preprocessor(data.__getitems__(range(64))))["loss"])


def test_rate_zero_leaves_every_bit_and_a_small_one_helps_on_unseen_clips(tmp_path):
    train(config(1e-3, 10), tmp_path / "start", seed=0)
    start = weights(tmp_path / "start")
    train(config(0.0, 5, str(tmp_path / "start")), tmp_path / "still", seed=1)
    still = weights(tmp_path / "still")
    assert list(still) == list(start) and all(torch.equal(still[key], start[key]) for key in start)
    train(config(1e-3, 60, str(tmp_path / "start")), tmp_path / "tuned", seed=1)
    tuned = weights(tmp_path / "tuned")
    assert held_out_loss(tuned) < 0.97 * held_out_loss(start)
    logs = {}
    for run in ("still", "tuned"):
        lines = [json.loads(line) for line in (tmp_path / run / "scalars.jsonl").read_text().splitlines()]
        logs[run] = [line["distance/absolute"] for line in lines if "distance/absolute" in line]
    assert set(logs["still"]) == {0.0} and len(logs["still"]) == 3  # steps 2, 4 and the last
    moved = sum(
        (tuned[key] - start[key]).double().square().sum()
        for key in start
        if key.startswith("backbone.")
        and key.removeprefix("backbone.") in dict(MODELS.build(MODEL).backbone.named_parameters())
    )
    assert abs(logs["tuned"][-1] - float(moved) ** 0.5) < 1e-4 * logs["tuned"][-1]

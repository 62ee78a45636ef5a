"""Public masked video weights with their decoder, as what a run starts from."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from perception.checkpoint import load_checkpoint
from perception.engine.api import train
from perception.engine.public_weights import whole_checkpoint
from perception.errors import CheckpointError
from perception.layers.video_masks import mask_cubes
from perception.registry import MODELS

SIZES = dict(image_size=32, num_frames=4, patch_size=16, hidden_size=24, num_hidden_layers=2, num_attention_heads=2)
CONFIG = dict(
    model=dict(
        type="Pretrainer",
        backbone=dict(
            type="VideoViT",
            image_size=32,
            frames=4,
            patch_size=16,
            embed_dim=24,
            depth=2,
            num_heads=2,
            mlp_ratio=2.0,
            preprocess=dict(type="VideoPreprocess", size=32, frames=4),
        ),
        pretexts=dict(
            video_mae=dict(
                type="VideoMAE",
                mask="shuffle",
                mask_ratio=0.5,
                decoder_dim=12,
                decoder_depth=1,
                decoder_num_heads=2,
                decoder_mlp_ratio=2.0,
            )
        ),
    )
)


@pytest.fixture
def theirs(tmp_path):
    torch.manual_seed(0)
    decoder = dict(
        decoder_hidden_size=12, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=24
    )
    model = VideoMAEForPreTraining(
        VideoMAEConfig(**SIZES, intermediate_size=48, use_mean_pooling=False, **decoder)
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, str(tmp_path / "model.safetensors"))
    return model


def test_a_run_starts_from_all_of_it(theirs, tmp_path):
    count, left_out = whole_checkpoint(tmp_path / "model.safetensors", CONFIG, tmp_path / "start.pth")
    model = MODELS.build(CONFIG["model"]).eval()
    model.load_state_dict(load_checkpoint(tmp_path / "start.pth")["state_dict"])
    assert count == len(model.state_dict()) and left_out == []
    x = torch.rand(2, 3, 4, 32, 32)
    mask = mask_cubes("shuffle", torch.rand(2, 8), (2, 2, 2), 0.5)
    loss = model.pretexts["video_mae"].loss_of(model.backbone, x, mask)
    assert loss.item() == pytest.approx(theirs(x.transpose(1, 2), bool_masked_pos=mask.mask).loss.item(), abs=1e-4)
    run = dict(
        **CONFIG,
        train_dataloader=dict(batch_size=4, dataset=dict(type="MovingDigits", split="pretrain", count=4, frames=4)),
        train_cfg=dict(type="TrainLoop", max_iters=1),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.0)),
        load_from=str(tmp_path / "start.pth"),
    )
    train(run, tmp_path / "run", seed=0)
    end = load_checkpoint(tmp_path / "run" / "checkpoints" / "step_00000001.pth")["state_dict"]
    assert all(torch.equal(end[key], value) for key, value in model.state_dict().items())


def test_what_is_missing_is_named(theirs, tmp_path):
    state = {k: v.contiguous() for k, v in theirs.state_dict().items() if not k.startswith("decoder.norm")}
    save_file(state, str(tmp_path / "cut.safetensors"))
    with pytest.raises(CheckpointError, match=r"decoder\.norm"):
        whole_checkpoint(tmp_path / "cut.safetensors", CONFIG, tmp_path / "x.pth")
    (tmp_path / "there.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match="exists"):
        whole_checkpoint(tmp_path / "model.safetensors", CONFIG, tmp_path / "there.pth")

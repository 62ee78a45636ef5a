"""Pictures of attention over time: weights are those of the block, and colours lie on the cubes that they are of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception.backbones.video_vit import VideoViT
from perception.cli import main
from perception.pretext.pictures import colour
from perception.pretext.video_pictures import attention_over_time, overlaid

YELLOW, BLUE = colour(np.array([1.0, 0.0]), 0.0, 1.0)


def vit(**options):
    torch.manual_seed(0)
    record = dict(type="VideoPreprocess", size=(16, 16), frames=8, mean=(0.5,) * 3, std=(0.25,) * 3)
    sizes = dict(image_size=16, frames=8, patch_size=8, tubelet=2, embed_dim=16, depth=2, num_heads=2)
    return VideoViT(**sizes, preprocess=record, **options).eval()


def moving_in(slot, row, column, count=2):
    """Grey clips; the pixels of one cube of 2 x 8 x 8 change from frame to frame."""
    clips = torch.full((count, 3, 8, 16, 16), 100, dtype=torch.uint8)
    clips[:, :, 2 * slot + 1, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 180
    return clips


@pytest.mark.parametrize("class_token", [False, True])
def test_weights_are_those_of_the_block(class_token):
    model = vit(class_token=class_token)
    clips = torch.randn(3, 3, 8, 16, 16)
    for block in (0, 1):
        found = model.attention(clips, block)
        with torch.no_grad():
            tokens = model.tokens(clips)
            for earlier in model.blocks[:block]:
                tokens = earlier(tokens)
            attention = model.blocks[block].attn
            weight, zero = attention.qkv.weight.view(3, 2, 8, 16), torch.zeros(16)
            bias = torch.stack([attention.q_bias, zero, attention.v_bias]).view(3, 2, 1, 8)
            normed = model.blocks[block].norm1(tokens)
            q, k, _ = torch.einsum("bnd,ched->cbhne", normed, weight) + bias[:, None]
            expected = (torch.einsum("bhne,bhme->bhnm", q, k) / 8**0.5).softmax(-1).mean(1)
        assert found.shape == (3, 16 + class_token, 16 + class_token)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(model.attention(clips), found)


def test_colours_lie_on_the_cube_and_its_frames_alone():
    clips = np.full((2, 8, 3, 16, 16), 100, np.uint8)
    weights = torch.zeros(2, 4, 2, 2)
    weights[0, 1, 0, 1] = 0.3
    lit = overlaid(clips, weights)
    yellow = (lit == (0.5 * 100 + 0.5 * YELLOW).round().astype(np.uint8)[:, None, None]).all(2)
    expected = np.zeros((2, 8, 16, 16), bool)
    expected[0, 2:4, :8, 8:] = True
    assert np.array_equal(yellow, expected)
    assert (lit.transpose(0, 1, 3, 4, 2)[~expected] == (50 + 0.5 * BLUE).round()).all()


def test_even_attention_is_the_same_colour_in_every_frame_and_the_moving_cube_is_framed():
    model = vit()
    with torch.no_grad():
        model.blocks[-1].attn.qkv.weight.zero_()  # no key is like any query: all cubes weigh alike
    batch = model.preprocess({"video": moving_in(2, 1, 0)})
    pictures = attention_over_time(model, batch)
    side = 4 * 16 + 2  # enlarged to 64 pixels, ruled
    strips, film = pictures["attention_strips"], pictures["attention_film"]
    assert strips.shape == (6 * side + 2, 8 * side + 2, 3) and film.shape == (8, 2 * side + 2, 3 * side + 2, 3)

    def cell(row, frame):
        return strips[2 + row * side :, 2 + frame * side :][:64:4, :64:4]

    grey = (50 + 0.5 * YELLOW).round()
    for frame in range(8):
        own = np.full((16, 16), 100)
        if frame == 5:
            own[8:, :8] = 180
        assert np.array_equal(cell(0, frame), np.repeat(own[..., None], 3, 2))
        assert np.abs(cell(1, frame).astype(int) - (own / 2)[..., None] - grey + 50).max() <= 1
        white = (cell(2, frame) == 255).all(-1)
        expected = np.zeros((16, 16), bool)
        if frame in (4, 5):
            expected[8:, :8] = True
            expected[9:15, 1:7] = False
        assert np.array_equal(white, expected)
        assert np.array_equal(film[frame, 2:, 2 + side :][:64:4, :64:4], cell(1, frame))


def test_the_class_token_is_what_looks_where_there_is_one():
    model = vit(class_token=True)
    batch = model.preprocess({"video": torch.randint(0, 256, (1, 3, 8, 16, 16), dtype=torch.uint8)})
    shown = attention_over_time(model, batch, count=1)["attention_film"][:, 2:, 2 + 66 :][:, :64:4, :64:4]
    maps = model.attention(batch["video"])[:, 0, 1:].unflatten(1, (4, 2, 2))
    clips = model.preprocess.denormalize(batch["video"]).transpose(1, 2).numpy()
    assert np.array_equal(shown, overlaid(clips, maps)[0].transpose(0, 2, 3, 1))


def test_runs_and_reports_draw_it(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    small = ["train_cfg.max_epochs=1", "train_dataloader.dataset.count=64", "model.backbone.depth=1"]
    small += [f"evaluation.{split}.count=40" for split in ("train", "val", "test")]
    assert main(["train", "video/videomae_vit-tiny_moving-digits", "--out", "pre", "--set", *small]) == 0
    tune = ["train_cfg.max_iters=1", "train_dataloader.dataset.per_class=2", "model.backbone.depth=1"]
    tune += [f"{split}_dataloader.dataset.count=40" for split in ("val", "test")]
    assert main(["train", "video/finetune_vit-tiny_moving-digits", "--out", "tuned", "--set", *tune]) == 0
    drawn = {path.name for path in Path("pre/seed_0/pictures").iterdir()}
    kinds = ("attention_strips_00000001.png", "attention_film_00000001.gif")
    assert drawn == {*kinds, "video_mae_strips_00000001.png", "video_mae_film_00000001.gif"}
    for run in ("pre", "tuned"):
        assert main(["report", run, "--pictures", "shown"]) == 0
        with (
            Image.open(f"shown/{run}_attention_film.gif") as film,
            Image.open(f"shown/{run}_attention_strips.png") as strip,
        ):
            # Four clips of 32 pixels, doubled and ruled: three sides a row.
            assert (film.n_frames, film.size, strip.size) == (8, (3 * 66 + 2, 4 * 66 + 2), (8 * 66 + 2, 12 * 66 + 2))
    told = capfd.readouterr().out.replace("\n", "")
    assert "pre_attention_film.gif" in told and "tuned_attention_strips.png" in told

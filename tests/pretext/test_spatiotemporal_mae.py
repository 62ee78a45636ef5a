import numpy as np
import pytest
import torch
import torch.nn.functional as F
from literal_blocks import literal_block

from perception.backbones.video_vit import VideoViT
from perception.layers.video_masks import mask_cubes
from perception.layers.video_tokens import join_cubes
from perception.pretext.spatiotemporal_mae import SpatiotemporalMAE

GRID = (4, 2, 3)


def build(seed=0, **changes):
    torch.manual_seed(seed)
    vit = VideoViT(
        image_size=(8, 12),
        frames=8,
        patch_size=4,
        tubelet=2,
        embed_dim=32,
        depth=2,
        num_heads=4,
        qkv_bias=True,
        class_token=True,
        position="separable",
        preprocess=dict(type="VideoPreprocess", size=(8, 12), frames=8, mean=(0.45,) * 3, std=(0.225,) * 3),
    )
    mae = SpatiotemporalMAE(
        **{**dict(decoder_dim=16, decoder_depth=2, decoder_num_heads=2, mask_ratio=0.75), **changes}
    )
    mae.attach(vit)
    with torch.no_grad():
        for parameter in [*vit.parameters(), *mae.parameters()]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return vit, mae


def literal(vit, mae, x, noise, frame_ids, normalise):
    """The card step by step: shuffle by noise, un-shuffle before the decoder, loss over removed cubes; float64."""
    e = {k: v.double() for k, v in vit.state_dict().items()}
    d = {k: v.double() for k, v in mae.state_dict().items()}
    x, kept = x.double(), int(24 * (1 - mae.mask_ratio))
    embedded = F.conv3d(x, e["patch_embed.proj.weight"], e["patch_embed.proj.bias"], stride=(2, 4, 4))
    embedded = embedded.flatten(2).transpose(1, 2)
    u = len(frame_ids) // 4
    total, count, preds, masks = 0.0, 0, [], []
    for n in range(len(x)):
        shuffle = noise[n].argsort()
        restore = shuffle.argsort()
        place = [e["pos_embed_spatial"][0, i % 6] + e["pos_embed_temporal"][0, i // 6] for i in range(24)]
        rows = [e["cls_token"][0, 0] + e["pos_embed_class"][0, 0]]
        rows = torch.stack(rows + [embedded[n, i] + place[i] for i in shuffle[:kept].tolist()])
        for i in range(2):
            rows = literal_block(rows, e, f"blocks.{i}.", 4)
        rows = F.layer_norm(rows, (32,), e["norm.weight"], e["norm.bias"], 1e-6)[1:]
        rows = rows @ d["decoder_embed.weight"].T + d["decoder_embed.bias"]
        full = torch.cat([rows, d["mask_token"][0].expand(24 - kept, -1)])[restore]
        full = full + torch.stack(
            [d["decoder_pos_embed_spatial"][0, i % 6] + d["decoder_pos_embed_temporal"][0, i // 6] for i in range(24)]
        )
        full = torch.cat([d["decoder_cls_token"][0] + d["decoder_pos_embed_class"][0], full])
        for i in range(mae.decoder_depth):
            full = literal_block(full, d, f"decoder_blocks.{i}.", 2)
        full = F.layer_norm(full, (16,), d["decoder_norm.weight"], d["decoder_norm.bias"], 1e-6)
        pred = (full @ d["decoder_pred.weight"].T + d["decoder_pred.bias"])[1:]
        mask = (restore >= kept).double()
        frames = x[n, :, frame_ids]
        for i in range(24):
            t, h, w = i // 6, i // 3 % 2, i % 3
            cube = frames[:, u * t : u * t + u, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4]
            target = cube.permute(1, 2, 3, 0).reshape(-1).numpy()
            if normalise:
                target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
            total += float(mask[i]) * ((pred[i].detach().numpy() - target) ** 2).mean()
        count += int(mask.sum())
        preds.append(pred)
        masks.append(mask.bool())
    return total / count, torch.stack(preds), torch.stack(masks)


@pytest.mark.parametrize(
    ("changes", "frame_ids"),
    [
        (dict(), list(range(8))),  # the child models: raw values, all frames, u = 2
        (dict(target="joint", predict_frames=4), [0, 2, 4, 7]),  # the first paper: floor(linspace(0, 7, 4)), u = 1
    ],
)
def test_outputs_are_those_of_a_literal_reimplementation(changes, frame_ids):
    vit, mae = build(**changes)
    x, noise = torch.randn(2, 3, 8, 8, 12), torch.rand(2, 24)
    loss, pred, mask = literal(vit, mae, x, noise, frame_ids, mae.target == "joint")
    split = mask_cubes("random", noise, GRID, 0.75)
    assert torch.equal(split.mask, mask)
    out = mae.reconstruct(vit, x, mask)
    torch.testing.assert_close(out["pred"].double(), pred, atol=1e-4, rtol=1e-4)
    assert out["loss"].item() == pytest.approx(loss, rel=1e-4)
    assert mae.loss_of(vit, x, split).item() == pytest.approx(loss, rel=1e-4)
    assert out["pred"].shape == (2, 24, len(frame_ids) // 4 * 4 * 4 * 3)


def test_frames_of_the_cards_example():
    vit = VideoViT(image_size=16, frames=16, patch_size=16, embed_dim=8, depth=1, num_heads=1)
    mae = SpatiotemporalMAE(predict_frames=8, decoder_dim=4, decoder_num_heads=1, mask_ratio=0.5)
    mae.attach(vit)
    assert mae.frame_ids.tolist() == [0, 2, 4, 6, 8, 10, 12, 15] and mae.out_cube == (1, 16, 16)


@pytest.mark.parametrize("predict", [None, 4])
def test_cubes_of_predicted_frames_join_to_those_frames(predict):
    _, mae = build(predict_frames=predict)
    x = torch.randn(2, 3, 8, 8, 12)
    cubes = mae.pixels(x).transpose(-1, -2).flatten(2)
    frames = x if predict is None else x[:, :, [0, 2, 4, 7]]
    assert torch.equal(join_cubes(cubes, mae.out_cube, GRID), frames)


def test_kept_cubes_do_not_count():
    vit, mae = build()
    x = torch.randn(2, 3, 8, 8, 12)
    mask = mask_cubes("random", torch.rand(2, 24), GRID, 0.75)
    head = mae.decoder_pred
    seen = []
    mae.decoder_norm.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[1]))
    mae.loss_of(vit, x, mask)
    assert seen == [18] and head.weight.shape[0] == 96  # predictions of the 6 kept ones are not even made


def test_tubes_and_chance_report_the_same_ratio():
    told = {}
    for kind in ("tube", "random"):
        _, mae = build(mask=kind, mask_ratio=0.5)
        told[kind] = mae.describe()
    assert told["tube"] == told["random"] == {"cubes that the encoder sees": "12 of 24"}


def test_every_parameter_learns():
    vit, mae = build()
    mae(vit, {"video": torch.randn(2, 3, 8, 8, 12)})["loss"].backward()
    for name, parameter in [*vit.named_parameters(), *mae.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    names = {"decoder_cls_token", "decoder_pos_embed_spatial", "decoder_pos_embed_temporal", "decoder_pos_embed_class"}
    assert names <= set(mae.state_dict())


def test_start_of_tokens_and_positions():
    torch.manual_seed(0)
    vit = VideoViT(embed_dim=64, depth=1, num_heads=2, position="separable", class_token=True)
    mae = SpatiotemporalMAE(decoder_dim=64)
    mae.attach(vit)
    for table in (vit.pos_embed_spatial, mae.decoder_pos_embed_spatial, vit.pos_embed_temporal):
        assert table.std().item() == pytest.approx(0.02, rel=0.1)


def test_pictures_show_the_predicted_frames():
    vit, mae = build(predict_frames=4, picture_count=1)
    raw = torch.randint(0, 256, (1, 3, 8, 8, 12), dtype=torch.uint8)
    pictures = mae.pictures(vit, vit.preprocess({"video": raw}))
    strips = pictures["spatiotemporal_mae_strips"]
    height, width = 8 * 8 + 2, 12 * 8 + 2
    assert strips.shape == (3 * height + 2, 4 * width + 2, 3)
    shown = strips[2:, 2 + 3 * width :][:64:8, :96:8].transpose(2, 0, 1)
    assert np.array_equal(shown, raw[0, :, 7].numpy())
    assert pictures["spatiotemporal_mae_film"].shape == (4, height + 2, 3 * width + 2, 3)

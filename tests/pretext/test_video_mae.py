import numpy as np
import pytest
import torch
import torch.nn.functional as F
from literal_blocks import literal_block

from perception.backbones.video_vit import VideoViT
from perception.backbones.vit import ViT
from perception.errors import ConfigError, DataError
from perception.layers.patches import take_tokens
from perception.layers.video_masks import CubeMask, mask_cubes
from perception.layers.video_tokens import join_cubes
from perception.pretext.masked_video import interpolation_errors
from perception.pretext.spatiotemporal_mae import SpatiotemporalMAE
from perception.pretext.video_mae import VideoMAE

RECORD = dict(type="VideoPreprocess", size=16, frames=8, mean=(0.4, 0.45, 0.5), std=(0.2, 0.25, 0.3))
GRID = (4, 4, 4)


def build(kind=VideoMAE, seed=0, backbone=(), **changes):
    torch.manual_seed(seed)
    sizes = dict(image_size=16, frames=8, patch_size=4, tubelet=2, embed_dim=32, depth=2, num_heads=4)
    vit = VideoViT(**{**sizes, "preprocess": RECORD, **dict(backbone)})
    pretext = kind(**{**dict(decoder_dim=16, decoder_depth=2, decoder_num_heads=2, mask_ratio=0.8), **changes})
    pretext.attach(vit)
    return vit, pretext


def spread(*modules):
    """Biases and norms away from 0 and 1."""
    with torch.no_grad():
        for parameter in (p for module in modules for p in module.parameters()):
            parameter.add_(0.1 * torch.randn_like(parameter))


def clips(batch=2):
    return torch.randn(batch, 3, 8, 16, 16)


def drawn(kind="tube", ratio=0.8, batch=2, seed=3):
    return mask_cubes(kind, torch.rand(batch, 64, generator=torch.Generator().manual_seed(seed)), GRID, ratio)


def hidden_pixels(mask):
    """(B, 3, 8, 16, 16) bool, True on pixels of hidden cubes."""
    return join_cubes(mask.mask[..., None].expand(-1, -1, 2 * 4 * 4 * 3), (2, 4, 4), GRID)


def literal_loss(vit, pretext, x, mask):
    """The card's steps on one clip at a time, in float64."""
    e = {k: v.double() for k, v in vit.state_dict().items()}
    d = {k: v.double() for k, v in pretext.state_dict().items()}
    x, errors, preds = x.double(), [], []
    embedded = F.conv3d(x, e["patch_embed.proj.weight"], e["patch_embed.proj.bias"], stride=(2, 4, 4))
    embedded = embedded.flatten(2).transpose(1, 2) + vit.pos_embed.double()
    unit = x * torch.tensor(RECORD["std"]).double().view(3, 1, 1, 1)
    unit = unit + torch.tensor(RECORD["mean"]).double().view(3, 1, 1, 1)
    for n in range(len(x)):
        keep, hidden = mask.keep[n].tolist(), mask.hidden[n].tolist()
        rows = embedded[n, keep]
        for i in range(vit.depth):
            rows = literal_block(rows, e, f"blocks.{i}.", 4)
        rows = F.layer_norm(rows, (32,), e["norm.weight"], e["norm.bias"], 1e-6) @ d["encoder_to_decoder.weight"].T
        table = pretext.decoder_pos_embed[0].double()
        full = torch.cat([rows + table[keep], d["mask_token"][0] + table[hidden]])
        for i in range(pretext.decoder_depth):
            full = literal_block(full, d, f"decoder.blocks.{i}.", 2)
        full = F.layer_norm(full[len(keep) :], (16,), d["decoder.norm.weight"], d["decoder.norm.bias"], 1e-6)
        pred = full @ d["decoder.head.weight"].T + d["decoder.head.bias"]
        preds.append(pred)
        for row, index in enumerate(hidden):
            t, h, w = index // 16, index // 4 % 4, index % 4
            cube = unit[n, :, 2 * t : 2 * t + 2, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4]
            pixels = cube.permute(1, 2, 3, 0).reshape(32, 3).numpy()  # (frame, row, column), channel
            target = (pixels - pixels.mean(0)) / (np.sqrt(pixels.var(0, ddof=1)) + 1e-6)
            errors.append(((pred[row].detach().numpy() - target.reshape(-1)) ** 2).mean())
    return np.mean(errors), torch.stack(preds)


@pytest.mark.parametrize(("depth", "kind"), [(2, "tube"), (1, "random")])
def test_loss_and_predictions_are_those_of_a_literal_reimplementation(depth, kind):
    vit, mae = build(decoder_depth=depth, mask=kind)
    spread(vit, mae)
    x, mask = clips(), drawn(kind)
    loss, pred = literal_loss(vit, mae, x, mask)
    assert mae.loss_of(vit, x, mask).item() == pytest.approx(loss, rel=1e-4)
    found = mae.decode(vit.forward_tokens(x, mask.keep), mask.keep, mask.hidden)
    torch.testing.assert_close(found.double(), pred, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [VideoMAE, SpatiotemporalMAE])
@pytest.mark.parametrize("target", ["channel", "joint", "raw", "unit"])
def test_training_loss_and_gradients_are_those_of_the_full_model(kind, target):
    vit, pretext = build(kind, target=target)
    spread(vit, pretext)
    x, mask = clips(), drawn(pretext.mask)
    parameters = [*vit.parameters(), *pretext.parameters()]
    short = pretext.loss_of(vit, x, mask)
    full = pretext.reconstruct(vit, x, mask.mask)["loss"]
    assert short.item() == pytest.approx(full.item(), rel=1e-5)
    pairs = zip(torch.autograd.grad(short, parameters), torch.autograd.grad(full, parameters), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("kind", [VideoMAE, SpatiotemporalMAE])
def test_hidden_pixels_reach_the_loss_through_the_target_alone(kind):
    vit, pretext = build(kind)
    x, mask = clips().requires_grad_(), drawn(pretext.mask)
    out = pretext.reconstruct(vit, x, mask.mask)
    hidden = hidden_pixels(mask)
    (gradient,) = torch.autograd.grad(out["pred"].square().sum(), x)
    assert gradient[hidden].abs().max() == 0 and gradient[~hidden].abs().max() > 0
    changed = torch.where(hidden, torch.randn_like(x), x.detach())
    again = pretext.reconstruct(vit, changed, mask.mask)
    assert torch.equal(again["pred"], out["pred"]) and again["loss"] != out["loss"]
    visible = torch.where(hidden, x.detach(), torch.randn_like(x))
    assert not torch.allclose(pretext.reconstruct(vit, visible, mask.mask)["pred"], out["pred"])


def test_permuting_visible_tokens_with_their_positions_changes_nothing():
    vit, mae = build()
    x, mask = clips(), drawn()
    order = torch.randperm(mask.keep.shape[1])
    straight = mae.decode(vit.forward_tokens(x, mask.keep), mask.keep, mask.hidden)
    keep = mask.keep[:, order]
    torch.testing.assert_close(mae.decode(vit.forward_tokens(x, keep), keep, mask.hidden), straight, atol=1e-5, rtol=0)


def test_perfect_predictions_cost_nothing_and_kept_cubes_do_not_count():
    vit, mae = build(target="raw", mask="random")
    x, mask = clips(), drawn("random")
    perfect = mae.targets(mae.pixels(x, mask.hidden))
    mae.decode = lambda *args, **kwargs: perfect
    assert mae.loss_of(vit, x, mask).item() == 0
    assert perfect.shape == (2, mask.hidden.shape[1], 96)  # nothing of visible cubes is even predicted


def test_encoder_and_decoder_see_the_cards_numbers():
    torch.manual_seed(0)
    vit = VideoViT(embed_dim=12, depth=1, num_heads=2)
    mae = VideoMAE(decoder_dim=6, decoder_depth=2, decoder_num_heads=1)
    mae.attach(vit)
    seen = {"encoder": [], "decoder": [], "head": []}
    vit.blocks[0].register_forward_pre_hook(lambda m, args: seen["encoder"].append(args[0].shape[1]))
    mae.decoder.blocks[0].register_forward_pre_hook(lambda m, args: seen["decoder"].append(args[0].shape[1]))
    mae.decoder.norm.register_forward_pre_hook(lambda m, args: seen["head"].append(args[0].shape[1]))
    mae(vit, {"video": torch.randn(1, 3, 16, 224, 224)})
    assert seen == {"encoder": [160], "decoder": [1568], "head": [1408]}
    assert mae.decoder.head.weight.shape[0] == 1536
    assert mae.describe() == {"cubes that the encoder sees": "160 of 1568"}


@pytest.mark.parametrize("kind", ["tube", "random", "agnostic", "temporal", "center", "boundary"])
def test_every_mask_trains(kind):
    vit, mae = build(mask=kind)
    loss = mae(vit, {"video": clips()})["loss"]
    loss.backward()
    assert 0.5 < loss.item() < 3
    for name, parameter in [*vit.named_parameters(), *mae.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_seed_fixes_the_loss():
    vit, mae = build()
    x = clips()

    def loss(seed):
        torch.manual_seed(seed)
        return mae(vit, {"video": x})["loss"]

    assert loss(5) == loss(5) != loss(6)


def test_start_of_the_mask_token_and_the_maps():
    _, mae = build(decoder_dim=256, decoder_num_heads=4)
    assert 0.018 < mae.mask_token.abs().max() <= 0.02  # cut at one standard deviation
    weight = mae.encoder_to_decoder.weight
    assert mae.encoder_to_decoder.bias is None
    assert weight.abs().max().item() == pytest.approx((6 / sum(weight.shape)) ** 0.5, rel=0.02)
    assert mae.decoder.blocks[0].attn.qkv.bias is None and "decoder_pos_embed" not in mae.state_dict()


def test_decoder_masking_of_version_two():
    vit, mae = build(decoder_mask_ratio=0.5)
    x, mask, asked = clips(), drawn(), []
    mae.decoder.norm.register_forward_pre_hook(lambda m, args: asked.append(args[0].shape[1]))
    torch.manual_seed(7)
    loss = mae.loss_of(vit, x, mask)
    assert asked == [32]  # half of 64 cubes
    torch.manual_seed(7)
    start = torch.randint(4, (2,))
    # Which places of 2 x 2 come in which slot, worked out place by place.
    total, count = 0.0, 0
    for n in range(2):
        ids = [
            i for i in range(64) if ((i // 4 % 4 % 2) * 2 + i % 4 % 2 - (i // 16) - int(start[n])) % 4 < 2
        ]  # fmt: skip
        wanted = torch.tensor([ids])
        pred = mae.decode(vit.forward_tokens(x[n : n + 1], mask.keep[n : n + 1]), mask.keep[n : n + 1], wanted)
        target = mae.targets(mae.pixels(x[n : n + 1], wanted)).view(1, 32, 3, 32).transpose(2, 3).flatten(2)
        error = (pred - target).square().mean(-1)[0]
        inside = mask.mask[n, ids]
        total, count = total + float(error[inside].detach().sum()), count + int(inside.sum())
    assert loss.item() == pytest.approx(total / count, rel=1e-4)


def test_motion_weights_move_the_loss_to_where_things_move():
    vit, mae = build(target="raw", motion_weight=1.0)
    x = torch.zeros(1, 3, 8, 16, 16)
    x[:, :, ::2, 4:8, 4:8] = 3.0  # one place flickers, the rest stands still
    hidden = torch.arange(64).view(1, 64)[:, 1:]
    mask = CubeMask(torch.tensor([[0]]), hidden)
    loss = mae.loss_of(vit, x, mask)
    place = torch.tensor([[16 * t + 5 for t in range(4)]])
    pred = mae.decode(vit.forward_tokens(x, mask.keep), mask.keep, hidden, channels_first=True)
    rows = place - 1
    error = (take_tokens(pred, rows) - mae.targets(mae.pixels(x, place))).square().mean()
    assert loss.item() == pytest.approx(error.item(), rel=1e-4)
    plain = build(target="raw")[1]
    plain.load_state_dict(mae.state_dict())
    assert plain.loss_of(vit, x, mask).item() < 0.5 * loss.item()


def test_loss_is_float32_under_autocast_and_near_the_exact_one():
    vit, mae = build()
    x, mask = clips(4), drawn(batch=4)
    exact = mae.loss_of(vit, x, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mae.loss_of(vit, x, mask)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=2e-2)
    loss.backward()


def test_interpolation_against_the_blend_by_hand():
    vit, mae = build(target="raw")
    ramp = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(2, 3, 8, 16, 16) / 8
    model, blend = interpolation_errors(mae, vit, ramp)
    assert model.shape == blend.shape == (2,)
    assert blend.abs().max() < 1e-10  # what grows evenly is blended without an error
    x = ramp.clone()
    x[1, 0, 3] += 1.0  # one channel of one of the four hidden frames
    model, blend = interpolation_errors(mae, vit, x)
    assert blend[0] < 1e-10 and blend[1].item() == pytest.approx(0.2**2 / 12, rel=1e-4)
    mask = torch.zeros(2, 64, dtype=torch.bool)
    mask[:, 16:48] = True
    pred = mae.reconstruct(vit, x, mask)["pred"]
    filled = join_cubes(pred, (2, 4, 4), GRID)[:, :, 2:6]
    std = torch.tensor(RECORD["std"]).view(3, 1, 1, 1)
    torch.testing.assert_close(model, ((filled - x[:, :, 2:6]) * std).square().mean((1, 2, 3, 4)))
    vit, unit = build(target="unit")
    unit.load_state_dict(mae.state_dict())
    in_unit, _ = interpolation_errors(unit, vit, x)
    mean = torch.tensor(RECORD["mean"]).view(3, 1, 1, 1)
    pixels = x[:, :, 2:6] * std + mean
    torch.testing.assert_close(in_unit, (filled - pixels).square().mean((1, 2, 3, 4)), atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match="leaves out the mean"):
        interpolation_errors(build()[1], vit, x)
    with pytest.raises(ConfigError, match="nothing to interpolate"):
        interpolation_errors(mae, vit, x, ends=2)


def test_interpolation_is_logged_now_and_then_and_changes_nothing():
    vit, mae = build(target="raw", log_interpolation=5)
    x = clips()
    keys = []
    for step in (0, 1, 5):
        mae.before_step(step, 10)
        keys.append(sorted(mae(vit, {"video": x})))
    assert keys == [
        ["interpolation_mse", "linear_blend_mse", "loss"],
        ["loss"],
        ["interpolation_mse", "linear_blend_mse", "loss"],
    ]
    assert vit.training and mae.training


def test_pictures():
    vit, mae = build(picture_count=2)
    vit.train()
    raw = torch.randint(0, 256, (3, 3, 8, 16, 16), dtype=torch.uint8)
    pictures = mae.pictures(vit, vit.preprocess({"video": raw}))
    strips, film = pictures["video_mae_true-statistics_strips"], pictures["video_mae_true-statistics_film"]
    side = 4 * 16 + 2  # enlarged to 64 pixels, ruled
    assert strips.shape == (2 * 3 * side + 2, 8 * side + 2, 3) and strips.dtype == np.uint8
    assert film.shape == (8, 2 * side + 2, 3 * side + 2, 3)
    assert vit.training and mae.training

    def cell(row, column):
        return strips[2 + row * side :, 2 + column * side :][:64:4, :64:4].transpose(2, 0, 1)

    assert np.array_equal(cell(3, 5), raw[1, :, 5].numpy())  # original of clip 1, frame 5
    original, masked, filled = (cell(row, 5).reshape(3, 4, 4, 4, 4) for row in (3, 4, 5))
    shown = (original == masked).all((0, 2, 4))
    assert shown.sum() == 16 - int(0.8 * 16)
    assert (filled == original).all((0, 2, 4))[shown].all() and not (filled == original).all((0, 2, 4)).all()
    assert np.array_equal(film[5, 2 + side :, 2:][:64:4, :64:4].transpose(2, 0, 1), raw[1, :, 5].numpy())
    again = mae.pictures(vit, vit.preprocess({"video": raw}))["video_mae_true-statistics_film"]
    assert np.array_equal(film, again)
    assert sorted(build(target="raw")[1].pictures(vit, vit.preprocess({"video": raw}))) == [
        "attention_film",
        "attention_strips",
        "video_mae_film",
        "video_mae_strips",
    ]


def test_it_learns_whether_clips_grow_brighter_or_darker():
    vit, mae = build(target="raw", mask_ratio=0.75, decoder_dim=64)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW([*vit.parameters(), *mae.parameters()], lr=3e-3)
    ramp, losses = torch.linspace(-1, 1, 8).view(1, 1, 8, 1, 1), []
    for _ in range(90):
        sign = torch.randint(2, (8, 1, 1, 1, 1), generator=generator) * 2.0 - 1.0
        loss = mae(vit, {"video": (sign * ramp).expand(8, 3, 8, 16, 16)})["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.05 < 0.43 < losses[0]  # the mean of the two ways scores 3/7


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(mask="tubes"), "nearest is 'tube'"),
        (dict(target="pixels"), "channel, joint, raw, unit"),
        (dict(mask_ratio=1.0), r"\(0, 1\)"),
        (dict(mask_ratio=0.99, mask="random"), "keeps 0 of the 64"),
        (dict(mask_ratio=0.05), "keeps 64 of the 64"),
        (dict(decoder_num_heads=3), "does not divide"),
        (dict(decoder_mask_ratio=0.4), "four places"),
        (dict(motion_weight=2.0), r"\[0, 1\]"),
        (dict(predict_frames=6), "multiple of the 4 time slots"),
        (dict(log_interpolation=5), "needs target='raw'"),
        (dict(decoder_mask_ratio=0.5, backbone=dict(image_size=12, preprocess=None)), "even number"),
        (dict(target="raw", log_interpolation=5, backbone=dict(frames=4, preprocess=None)), "3 time slots"),
    ],
)
def test_impossible_settings_are_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        build(**changes)


def test_other_clips_masks_and_backbones_are_refused():
    vit, mae = build()
    with pytest.raises(DataError, match=r"frames=8 and image_size=\(16, 16\), not for clips of \(4, 16, 16\)"):
        mae(vit, {"video": torch.zeros(1, 3, 4, 16, 16)})
    mask = torch.zeros(2, 64, dtype=torch.bool)
    mask[0, :5] = mask[1, :6] = True
    with pytest.raises(DataError, match="same number of cubes"):
        mae.reconstruct(vit, clips(), mask)
    with pytest.raises(ConfigError, match="can skip cubes, such as VideoViT, not ViT"):
        VideoMAE().attach(ViT(16, 4, embed_dim=16, depth=1, num_heads=2))

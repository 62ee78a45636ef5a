import numpy as np
import pytest
import torch
import torch.nn.functional as F

from perception.backbones.vit import ViT
from perception.errors import ConfigError
from perception.pretext.mae import MAE

RECORD = dict(type="ImagePreprocess", size=(16, 24), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def build(image_size=(16, 24), patch_size=4, seed=0, class_token=True, **changes):
    torch.manual_seed(seed)
    vit = ViT(
        image_size=image_size,
        patch_size=patch_size,
        embed_dim=32,
        depth=2,
        num_heads=4,
        class_token=class_token,
        preprocess={**RECORD, "size": image_size},
    )
    mae = MAE(**{**dict(decoder_dim=16, decoder_depth=2, decoder_num_heads=2), **changes})
    mae.attach(vit)
    return vit, mae


def loss_of(vit, mae, images, seed=3):
    torch.manual_seed(seed)
    return mae(vit, {"image": images})["loss"]


def noise_of(mae, images, seed=3):
    torch.manual_seed(seed)
    return mae.draw_noise(images)


def literal_block(x, w, prefix, heads):
    """One pre-norm block over (N, D), written out from the paper's formulae."""
    dim = x.shape[1]
    y = F.layer_norm(x, (dim,), w[prefix + "norm1.weight"], w[prefix + "norm1.bias"], 1e-6)
    q, k, v = (y @ w[prefix + "attn.qkv.weight"].T + w[prefix + "attn.qkv.bias"]).split(dim, dim=1)
    size = dim // heads
    parts = []
    for h in range(heads):
        s = slice(h * size, (h + 1) * size)
        parts.append(torch.softmax(q[:, s] @ k[:, s].T / size**0.5, dim=1) @ v[:, s])
    x = x + torch.cat(parts, dim=1) @ w[prefix + "attn.proj.weight"].T + w[prefix + "attn.proj.bias"]
    y = F.layer_norm(x, (dim,), w[prefix + "norm2.weight"], w[prefix + "norm2.bias"], 1e-6)
    y = F.gelu(y @ w[prefix + "mlp.fc1.weight"].T + w[prefix + "mlp.fc1.bias"])
    return x + y @ w[prefix + "mlp.fc2.weight"].T + w[prefix + "mlp.fc2.bias"]


def literal_mae(vit, mae, images, noise):
    """The method card step by step, one image and one token at a time, in float64: loss, pred, mask, latent."""
    e = {k: v.double() for k, v in vit.state_dict().items()}
    d = {k: v.double() for k, v in mae.state_dict().items()}
    images = images.double()
    (rows, columns), (p, q) = vit.grid, vit.patch_size
    total = rows * columns
    keep = int(total * (1 - mae.mask_ratio))
    embedded = F.conv2d(images, e["patch_embed.proj.weight"], e["patch_embed.proj.bias"], stride=(p, q))
    preds, masks, latents, errors = [], [], [], []
    for n in range(len(images)):
        order = sorted(range(total), key=lambda i: noise[n, i].item())
        tokens = [e["cls_token"][0, 0]]
        tokens += [embedded[n, :, i // columns, i % columns] + e["pos_embed"][0, 1 + i] for i in order[:keep]]
        x = torch.stack(tokens)
        for b in range(vit.depth):
            x = literal_block(x, e, f"blocks.{b}.", 4)
        latent = F.layer_norm(x, (x.shape[1],), e["norm.weight"], e["norm.bias"], 1e-6)
        y = latent @ d["decoder_embed.weight"].T + d["decoder_embed.bias"]
        full = [y[0]]
        for i in range(total):
            rank = order.index(i)
            content = y[1 + rank] if rank < keep else d["mask_token"][0, 0]
            full.append(content + d["decoder_pos_embed"][0, i])
        y = torch.stack(full)
        for b in range(mae.decoder_depth):
            y = literal_block(y, d, f"decoder_blocks.{b}.", 2)
        y = F.layer_norm(y, (y.shape[1],), d["decoder_norm.weight"], d["decoder_norm.bias"], 1e-6)
        pred = (y @ d["decoder_pred.weight"].T + d["decoder_pred.bias"])[1:]
        for i in order[keep:]:
            top, left = i // columns * p, i % columns * q
            patch = images[n, :, top : top + p, left : left + q].permute(1, 2, 0).reshape(-1).numpy()
            if mae.norm_pix:
                patch = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
            errors.append(((pred[i].detach().numpy() - patch) ** 2).mean())
        preds.append(pred)
        masks.append([0.0 if order.index(i) < keep else 1.0 for i in range(total)])
        latents.append(latent)
    return np.mean(errors), torch.stack(preds), torch.tensor(masks), torch.stack(latents)


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(mask_ratio=0.5, norm_pix=False),
        dict(image_size=(12, 18), patch_size=(2, 6), mask_ratio=0.6, decoder_depth=1),
    ],
)
def test_outputs_are_those_of_a_literal_reimplementation(changes):
    vit, mae = build(**changes)
    with torch.no_grad():
        for parameter in [*vit.parameters(), *mae.parameters()]:  # biases and norms away from 0 and 1
            parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(3, 3, *vit.image_size)
    noise = torch.rand(3, vit.num_patches)
    out = mae.reconstruct(vit, images, noise)
    loss, pred, mask, latent = literal_mae(vit, mae, images, noise)
    assert out["loss"].item() == pytest.approx(loss, rel=1e-5)
    assert torch.equal(out["mask"], mask)
    torch.testing.assert_close(out["pred"].double(), pred, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out["latent"].double(), latent, atol=1e-4, rtol=1e-4)
    assert torch.equal(out["ids_restore"], noise.argsort(1).argsort(1))


@pytest.mark.parametrize("depth", [1, 3])
def test_training_loss_and_gradients_are_those_of_the_full_model(depth):
    vit, mae = build(decoder_depth=depth)
    images = torch.randn(4, 3, 16, 24)
    parameters = [*vit.parameters(), *mae.parameters()]
    short = torch.autograd.grad(loss_of(vit, mae, images), parameters)
    full_loss = mae.reconstruct(vit, images, noise_of(mae, images))["loss"]
    assert loss_of(vit, mae, images).item() == pytest.approx(full_loss.item(), rel=1e-6)
    for a, b in zip(short, torch.autograd.grad(full_loss, parameters), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_latent_does_not_depend_on_removed_pixels():
    vit, mae = build()
    images = torch.randn(2, 3, 16, 24, requires_grad=True)
    noise = torch.rand(2, 24)
    out = mae.reconstruct(vit, images, noise)
    (gradient,) = torch.autograd.grad(out["latent"].square().sum(), images)
    removed = out["mask"].view(2, 1, 4, 1, 6, 1).expand(2, 3, 4, 4, 6, 4).reshape(2, 3, 16, 24).bool()
    assert gradient[removed].abs().max() == 0 and gradient[~removed].abs().min() > 0
    changed = torch.where(removed, torch.randn_like(images), images.detach())
    assert torch.equal(mae.reconstruct(vit, changed, noise)["latent"], out["latent"])
    assert mae.reconstruct(vit, changed, noise)["loss"] != out["loss"]  # the targets did change


def test_a_seed_fixes_mask_and_loss():
    vit, mae = build()
    images = torch.randn(2, 3, 16, 24)
    assert loss_of(vit, mae, images, 5) == loss_of(vit, mae, images, 5) != loss_of(vit, mae, images, 6)


def test_gradients_reach_everything_but_the_positions():
    vit, mae = build()
    loss_of(vit, mae, torch.randn(2, 3, 16, 24)).backward()
    for name, parameter in [*vit.named_parameters(), *mae.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert not vit.pos_embed.requires_grad and not mae.decoder_pos_embed.requires_grad


def test_loss_is_float32_under_autocast_and_near_the_exact_one():
    vit, mae = build()
    images = torch.randn(8, 3, 16, 24)
    exact = loss_of(vit, mae, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(vit, mae, images)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=2e-2)
    loss.backward()


def test_no_class_token_and_one_band():
    torch.manual_seed(0)
    record = dict(type="ImagePreprocess", size=8, bands=("grey",), mean=(0.3,), std=(0.4,))
    vit = ViT(8, 2, in_channels=1, embed_dim=16, depth=1, num_heads=2, class_token=False, preprocess=record)
    mae = MAE(decoder_dim=8, decoder_depth=1, decoder_num_heads=2)
    mae.attach(vit)
    images = torch.randn(2, 1, 8, 8)
    out = mae.reconstruct(vit, images, noise_of(mae, images))
    assert out["pred"].shape == (2, 16, 4) and out["latent"].shape == (2, 4, 16)
    assert loss_of(vit, mae, images).item() == pytest.approx(out["loss"].item(), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "millions"),
    [
        (dict(embed_dim=768, depth=12, num_heads=12), 111.9),
        (dict(embed_dim=1024, depth=24, num_heads=16), 329.5),
        (dict(embed_dim=1280, depth=32, num_heads=16, patch_size=14), 657.0),
    ],
)
def test_sizes_of_the_paper(arguments, millions):
    with torch.device("meta"):
        vit, mae = ViT(**arguments), MAE()
        mae.attach(vit)
    state = [*vit.state_dict().values(), *mae.state_dict().values()]  # the paper's code counts fixed positions too
    assert sum(t.numel() for t in state) / 1e6 == pytest.approx(millions, abs=0.15)


def test_it_learns_to_fill_in_stripes():
    vit, mae = build(image_size=16, patch_size=4, mask_ratio=0.5)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW([*vit.parameters(), *mae.parameters()], lr=3e-3)
    losses = []
    stripes = torch.sin(torch.arange(16) * 0.8).expand(3, 16, 16)
    stripes = torch.stack([stripes, stripes.transpose(1, 2)])  # upright or lying
    for _ in range(100):
        images = stripes[torch.randint(2, (32,), generator=generator)]
        loss = mae(vit, {"image": images})["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.9 and np.mean(losses[-10:]) < 0.3  # predicting zeros scores 47/48


def test_picture_shows_original_mask_and_visible_patches():
    vit, mae = build(picture_count=2)
    vit.train()
    raw = {"image": torch.randint(0, 256, (3, 3, 16, 24), dtype=torch.uint8)}
    picture = mae.pictures(vit, vit.preprocess(raw))["mae_reconstruction"]
    factor, gap = 4, 2
    assert picture.dtype == np.uint8
    assert picture.shape == (2 * (16 * factor + gap) + gap, 4 * (24 * factor + gap) + gap, 3)
    assert vit.training and mae.training

    def cell(row, column):
        top, left = gap + row * (16 * factor + gap), gap + column * (24 * factor + gap)
        return picture[top : top + 16 * factor : factor, left : left + 24 * factor : factor].transpose(2, 0, 1)

    original, masked, reconstruction, pasted = (cell(1, column) for column in range(4))
    assert np.array_equal(original, raw["image"][1].numpy())
    blocks = [a.reshape(3, 4, 4, 6, 4) for a in (original, masked, reconstruction, pasted)]
    kept = (blocks[0] == blocks[1]).all((0, 2, 4))
    assert kept.sum() == 6  # int(24 * 0.25)
    assert (np.where(kept[None, :, None, :, None], blocks[0], blocks[2]) == blocks[3]).all()
    assert np.array_equal(picture, mae.pictures(vit, vit.preprocess(raw))["mae_reconstruction"])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(mask_ratio=1.0), "mask_ratio"),
        (dict(mask_ratio=0.0), "mask_ratio"),
        (dict(decoder_num_heads=3), "does not divide"),
        (dict(decoder_dim=18), "multiple of 4"),
        (dict(mask_ratio=0.97), "keeps none of the 24 patches"),
    ],
)
def test_impossible_settings_are_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        build(**changes)


def test_images_of_another_grid_are_refused():
    vit, mae = build()
    with pytest.raises(ValueError, match="attached for a grid"):
        mae(vit, {"image": torch.zeros(1, 3, 16, 16)})


def test_other_backbones_are_refused():
    with pytest.raises(ConfigError, match="needs a backbone that can skip patches"):
        MAE().attach(torch.nn.Identity())

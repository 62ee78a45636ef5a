"""SimCLR: projection, several sizes of views, what learns and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_towers import SIZE, TwoTowers, raw_batch, tiny_clip, tiny_vit

from perception.config import load_config
from perception.engine.api import train
from perception.engine.pretrainer import Pretrainer
from perception.errors import ConfigError, DataError
from perception.losses.view_contrast import view_contrast_loss
from perception.pretext.simclr import SimCLR
from perception.validation import validate_config


def attached(backbone, **options):
    torch.manual_seed(1)
    pretext = SimCLR(**{**dict(hidden_dim=12, projection_dim=6), **options})
    pretext.attach(backbone)
    return pretext


def cooked(backbone, **options):
    return backbone.preprocess(raw_batch(texts=False, **options))


@pytest.mark.parametrize("build", [tiny_vit, TwoTowers, tiny_clip])
def test_the_loss_is_that_of_projected_views_on_any_image_backbone(build):
    backbone = build().eval()
    pretext, batch = attached(backbone).eval(), cooked(backbone)
    features = [backbone.encode({"image": view}, None) for view in batch["views"]]
    expected = torch.stack([F.normalize(pretext.head(f), dim=1) for f in features])
    out = pretext(backbone, batch)
    torch.testing.assert_close(out["loss"], view_contrast_loss(expected, 0.1), atol=1e-5, rtol=1e-5)
    cosines = [expected[u] @ expected[v].T for u in range(5) for v in range(5) if u != v]
    mean = torch.stack([c.diagonal().mean() for c in cosines]).mean()
    torch.testing.assert_close(out["agreement"], mean, atol=1e-5, rtol=1e-5)


def test_everything_learns_and_steps_bring_views_together():
    backbone = tiny_vit()
    model = Pretrainer(backbone, {"simclr": attached(backbone)}).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = cooked(backbone, global_views=2, local_views=0, count=5)
    first = None
    for _ in range(30):
        losses = model(batch)
        loss, log = model.parse_losses(losses)
        optimiser.zero_grad()
        loss.backward()
        if first is None:
            first = loss.detach()
            assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters() if p.requires_grad)
            assert any("agreement" in name for name in log)
        optimiser.step()
    assert loss < 0.5 * first


def test_layers_of_the_projection():
    backbone = tiny_vit()
    names = [type(m).__name__ for m in attached(backbone, layers=3).head]
    assert names == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert [type(m).__name__ for m in attached(backbone, layers=1).head] == ["Linear"]
    assert attached(TwoTowers(), feature="pooled").head[0].in_features == 10


def test_fewer_than_two_views_are_refused():
    backbone = tiny_vit()
    pretext = attached(backbone)
    with pytest.raises(DataError, match="add MultiCrop"):
        pretext(backbone, {"image": torch.zeros(2, 3, SIZE, SIZE)})
    with pytest.raises(DataError, match="at least two"):
        pretext(backbone, cooked(backbone, global_views=1, local_views=0))
    with pytest.raises(ConfigError, match="temperature"):
        SimCLR(temperature=0)
    with pytest.raises(ConfigError, match=r"simclr\.layers"):
        SimCLR(layers=0)


def test_the_picture_shows_each_image_first_and_the_likest_next():
    backbone = tiny_vit().eval()
    pretext, batch = attached(backbone), cooked(backbone)
    batch["image"][3] = batch["image"][0]  # a copy: nothing is more alike
    shown = pretext.pictures(backbone, batch)["simclr_neighbours"]
    scale = 64 // SIZE * SIZE
    cells = [shown[2 : 2 + scale, 2 + c * (scale + 2) : 2 + c * (scale + 2) + scale] for c in range(2)]
    assert (cells[0] == cells[1]).all() and shown.shape[1] == 5 * (scale + 2) + 2
    assert pretext.pictures(backbone, {"image": batch["image"][:1]}) == {}


def test_it_trains_through_the_engine(tmp_path):
    cfg = load_config("image/mae_vit-tiny_digits")
    cfg.model.pretexts = dict(simclr=dict(type="SimCLR", hidden_dim=16, projection_dim=8))
    crops = dict(type="MultiCrop", size=8, local_size=4, global_views=2, local_views=2, flip=False, turn=False)
    cfg.train_dataloader.dataset.transforms = [crops]
    cfg.train_cfg = dict(type="TrainLoop", max_iters=3)
    cfg.pop("evaluation")
    assert validate_config(cfg) == []
    train(cfg, tmp_path, seed=0)
    assert list((tmp_path / "pictures").glob("simclr_neighbours_*.png"))

import math

import pytest
import torch

from perception.backbones.bev_base import BEVBackbone, points_of
from perception.errors import ConfigError, DataError
from perception.geometry.grid import BEVGrid
from perception.transforms.driving_preprocess import DrivingPreprocess

RANGE = (0.0, -8.0, -1.0, 16.0, 8.0, 3.0)


class Given(BEVBackbone):
    """A map that the batch holds already."""

    def bev(self, batch):
        return batch["map"]


def build():
    record = DrivingPreprocess(RANGE, image_size=(16, 16))
    return Given(record, BEVGrid.from_range(RANGE, (1.0, 1.0)), 3)


def test_features_are_mean_and_maximum_over_all_cells():
    model, bev = build(), torch.randn(2, 3, 16, 16)
    batch = {"map": bev, "points": [torch.zeros(1, 4)] * 2}
    mean, top = bev.flatten(2).mean(2), bev.flatten(2).max(2).values
    torch.testing.assert_close(model.encode(batch), torch.cat([mean, top], 1))
    torch.testing.assert_close(model.encode(batch, "mean"), mean)
    torch.testing.assert_close(model.encode(batch, "max"), top)
    for feature in (None, "pooled", "mean", "max"):
        assert model.encode(batch, feature).shape[1] == model.feature_dims(feature)
    torch.testing.assert_close(model.embed(batch), model.encode(batch))
    assert model(batch)[0] is bev and model.modality == "driving"
    with pytest.raises(ConfigError, match="pooled, mean, max"):
        model.encode(batch, "gap")


def test_raw_features_count_points_and_take_the_highest():
    points = torch.tensor([[0.5, -7.5, 0.0, 1.0], [0.5, -7.2, 2.0, 0.0], [15.5, 7.5, -0.5, 0.0], [99.0, 0.0, 0.0, 0.0]])
    raw = build().raw_features({"points": [points, points[:0]]})
    assert raw.shape == (2, 512) and (raw[1] == 0).all()
    assert raw[0].nonzero().flatten().tolist() == [0, 255, 256, 511]
    torch.testing.assert_close(raw[0, [0, 255, 256, 511]], torch.tensor([math.log(3), math.log(2), 2.0, -0.5]))


def test_statistics_are_shares_and_do_not_change_when_a_scene_is_mirrored():
    points = torch.rand(200, 4) * torch.tensor([15.0, 15.0, 3.0, 1.0]) + torch.tensor([0.5, -7.5, -0.9, 0.0])
    model = build()
    found = model.baselines({"points": [points, points[:0]]})["statistics"]
    assert found.shape == (2, 35) and (found[1] == 0).all()
    torch.testing.assert_close(found[0, :16].sum(), torch.tensor(1.0))
    torch.testing.assert_close(found[0, 16:32].sum(), torch.tensor(1.0))
    torch.testing.assert_close(found[0, 33], points[:, 3].mean())
    torch.testing.assert_close(found[0, 34], points[:, 3].std(correction=0))
    mirrored = points * torch.tensor([1.0, -1.0, 1.0, 1.0])
    torch.testing.assert_close(model.baselines({"points": [mirrored]})["statistics"], found[:1])


def test_cameras_alone_have_tiles():
    cams = torch.randn(2, 5, 3, 16, 16)
    found = build().baselines({"cams": cams})
    assert list(found) == ["raw"] and found["raw"].shape == (2, 5 * 192)
    torch.testing.assert_close(found["raw"][1, 192 + 64 + 1], cams[1, 1, 1, :2, 2:4].mean())


def test_missing_points_are_named():
    with pytest.raises(DataError, match=r"Given reads 'points', but the batch holds \['cams'\]"):
        points_of({"cams": 0}, "Given")

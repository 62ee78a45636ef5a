"""Points that look for themselves in another view: perfect, blind and half-blind maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.backbones.bev_base import BEVBackbone
from perception.datasets.driving_scenes import DrivingScenes
from perception.evaluation.protocol import EvaluationError
from perception.evaluation.region_retrieval import RegionRetrieval
from perception.evaluation.run import evaluate
from perception.geometry.grid import BEVGrid

RANGE = (-48.0, -48.0, -5.0, 48.0, 48.0, 6.0)
STILL = dict(type="TwoViews", rotation=0.0, scale=(1.0, 1.0))


class Toy(BEVBackbone):
    """Maps of position (a code that is unlike everywhere), of nothing, or of a coin."""

    def __init__(self, kind: str) -> None:
        super().__init__(dict(type="DrivingPreprocess", point_range=RANGE), BEVGrid.from_range(RANGE, (0.5, 0.5)), 16)
        self.kind = kind
        self.unused = nn.BatchNorm2d(3)

    def bev(self, batch: dict) -> Tensor:
        count = len(batch["points"])
        if self.kind == "nothing":
            return torch.ones(count, 16, *self.grid.shape)
        x = self.grid.centres().permute(2, 0, 1)
        waves = [
            f(2 * np.pi * x[a] / length)
            for a in (0, 1)
            for length in (100.0, 23.0, 7.0, 3.0)
            for f in (torch.sin, torch.cos)
        ]
        return torch.stack(waves).repeat(count, 1, 1, 1)


def scenes(**given) -> DrivingScenes:
    small = dict(count=3, extent=32.0, cameras=False, transforms=[dict(type="FindRegions", sensor_height=1.8)])
    return DrivingScenes(**{**small, **given})


def figures(kind: str, **given) -> dict[str, float]:
    outcomes = RegionRetrieval(**{"points": 128, "views": STILL, **given}).run(Toy(kind), scenes(), seed=0)
    return {outcome.metric: outcome.value for outcome in outcomes}


def test_a_map_of_positions_finds_every_point() -> None:
    found = figures("position")
    assert found["within"] > 0.99 and found["same region"] > 0.97


def test_a_map_of_nothing_always_finds_the_first_point() -> None:
    found = figures("nothing")
    assert found["within"] < 0.1 and found["same region"] < 0.6


def test_the_radius_is_metric_and_in_the_unaugmented_sweep() -> None:
    turned = dict(type="TwoViews", rotation=90.0, scale=(0.5, 0.5))
    everything = figures("nothing", views=turned, radius=200.0)
    assert everything["within"] == 1.0
    # Half the size of the view must not halve distances: the farthest pair of points is some 60 m apart.
    assert figures("nothing", views=turned, radius=25.0)["within"] < 0.9


def test_it_repeats_and_leaves_no_trace() -> None:
    backbone = Toy("position").train()
    state = torch.get_rng_state()
    runs = [RegionRetrieval(points=64, views=dict(type="TwoViews")).run(backbone, scenes(), seed=s) for s in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in backbone.modules())
    values = [[outcome.value for outcome in run] for run in runs]
    assert values[0] == values[1] != values[2]


def test_batches_change_nothing() -> None:
    turned = dict(type="TwoViews")
    runs = [RegionRetrieval(points=64, views=turned).run(Toy("position"), scenes(), 0, batch_size=n) for n in (1, 3)]
    assert runs[0] == runs[1] and runs[0][0].n == 3 * 64


def test_it_runs_in_an_evaluation_beside_the_untrained_backbone() -> None:
    section = dict(test=scenes(), protocols=dict(regions=RegionRetrieval(points=32, views=STILL)))
    rows = evaluate(Toy("position"), section, 0, untrained=Toy("nothing"))
    found = {(row["source"], row["metric"]): row["value"] for row in rows}
    assert found["trained", "within"] > found["untrained", "within"]
    assert rows[0]["variant"] == "DrivingScenes train" and rows[0]["dims"] == 32


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(EvaluationError, match="FindRegions"):
        RegionRetrieval(views=STILL).run(Toy("nothing"), scenes(transforms=[]), 0)
    assert "makes none" in (RegionRetrieval.misfit(Backbone) or "")
    assert RegionRetrieval.misfit(Toy) is None

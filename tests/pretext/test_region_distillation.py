"""A camera branch that learns from a LiDAR branch: what moves, what does not, and where the teacher comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from perception.backbones.bev_base import BEVBackbone
from perception.backbones.pillars import PillarNet
from perception.checkpoint import save_checkpoint
from perception.datasets.driving_scenes import DrivingScenes
from perception.errors import ConfigError, DataError
from perception.exporting import export_backbone
from perception.geometry.grid import BEVGrid, sample_bev
from perception.losses.point_region import region_distillation
from perception.pretext.bev_points import Projector
from perception.pretext.region_distillation import FeatureDistillation, RegionDistillation

RANGE = (-32.0, -32.0, -3.0, 32.0, 32.0, 5.0)
LIDAR = dict(
    type="PillarNet",
    cell=(2.0, 2.0),
    pillar_channels=(8,),
    layers=(1,),
    strides=(1,),
    channels=(8,),
    scales=(1,),
    neck_channels=(12,),
    preprocess=dict(type="DrivingPreprocess", point_range=RANGE),
)
CAMERA = dict(type="DrivingPreprocess", image_size=(32, 64))


class Camera(BEVBackbone):
    """A map of 16 x 16 cells from the mean colours of the images."""

    def __init__(self, **record) -> None:
        super().__init__({**CAMERA, **record}, BEVGrid.from_range(RANGE, (4.0, 4.0)), 6)
        self.net = nn.Linear(12, 6 * 256)

    def bev(self, batch: dict) -> Tensor:
        return self.net(batch["cams"].mean((3, 4)).flatten(1)).view(-1, 6, 16, 16)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of PRC: a LiDAR branch with a projector."""
    torch.manual_seed(3)
    backbone = PillarNet(**{k: v for k, v in LIDAR.items() if k != "type"})
    projector = Projector(12, 10, 5)
    for module in (*backbone.modules(), *projector.modules()):
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_()
    state = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    state |= {f"pretexts.prc.projector.{k}": v for k, v in projector.state_dict().items()}
    config = {"model": {"type": "Pretrainer", "backbone": {**LIDAR}}}
    meta = {"config": json.dumps(config), "preprocess": backbone.preprocess.record(), "step": 1}
    save_checkpoint({"state_dict": state, "meta": meta}, tmp_path / "run" / "checkpoints" / "step_1.pth")
    return tmp_path / "run" / "checkpoints" / "step_1.pth"


def batch_of(backbone: BEVBackbone) -> dict:
    small = dict(count=3, beams=16, azimuths=180, camera_size=(32, 64), transforms=[dict(type="FindRegions")])
    return backbone.preprocess(DrivingScenes(**small).__getitems__([0, 1]))


def test_the_teacher_and_its_projector_stay_as_they_are(run: Path) -> None:
    torch.manual_seed(0)
    student, pretext = Camera(), RegionDistillation(dict(init_from=str(run)), rich=64, poor=64)
    pretext.attach(student)
    pretext.train()
    frozen = {k: v.clone() for k, v in pretext.state_dict().items() if k.startswith("teacher")}
    assert len(frozen) > 15 and pretext.teacher_projector.projection_dim == 5
    losses = pretext(student, batch_of(student))
    losses["loss"].backward()
    assert all(p.grad is not None for p in student.parameters())
    assert not any(name.startswith("teacher") for name, _ in pretext.named_parameters())
    after = pretext.state_dict()
    assert all(torch.equal(after[k], v) for k, v in frozen.items())
    assert not any(m.training for m in pretext.teacher.modules())


def test_the_loss_is_that_of_both_maps_at_the_same_points(run: Path) -> None:
    student, pretext = Camera(), RegionDistillation(dict(init_from=str(run)), rich=64, poor=64, temperature=0.2)
    pretext.attach(student)
    pretext.eval()
    batch = batch_of(student)
    torch.manual_seed(5)
    loss = pretext(student, batch)["loss"]
    torch.manual_seed(5)
    _, _, chosen = pretext.read(student, batch)
    lidar = PillarNet(**{k: v for k, v in LIDAR.items() if k != "type"}).eval()
    projector = Projector(12, 10, 5).eval()
    state = torch.load(run, weights_only=True)["state_dict"]
    lidar.load_state_dict({k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")})
    mark = "pretexts.prc.projector."
    projector.load_state_dict({k.removeprefix(mark): v for k, v in state.items() if k.startswith(mark)})
    maps = lidar.bev(lidar.preprocess({"points": batch["points"]}))
    theirs = projector(sample_bev(maps, chosen.xy[0], lidar.grid), chosen.valid)
    mine = pretext.projector(sample_bev(student.bev(batch), chosen.xy[0], student.grid), chosen.valid)
    expected = region_distillation(mine, theirs, chosen.region, chosen.valid, 0.2)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("anchors", ["regions", "all"])
@pytest.mark.parametrize("negatives", ["sweep", "batch"])
def test_anchors_and_negatives_are_those_that_were_asked_for(run: Path, anchors: str, negatives: str) -> None:
    """Against loops over points, in double precision."""
    student = Camera()
    options = dict(rich=20, poor=30, temperature=0.3, hidden_dim=0, space="map", anchors=anchors, negatives=negatives)
    pretext = RegionDistillation(dict(init_from=str(run)), **options)
    pretext.attach(student)
    batch = batch_of(student)
    torch.manual_seed(4)
    found = pretext(student, batch)["loss"]
    torch.manual_seed(4)
    mine, theirs, chosen = pretext.read(student, batch)
    real = theirs[chosen.valid].double()
    t = (theirs.double() - real.mean(0)) / real.std(0, correction=0).clamp(min=1e-3)
    h = mine.double() @ pretext.projector.weight.double().T + pretext.projector.bias.double()
    t, h = t / t.norm(dim=-1, keepdim=True), h / h.norm(dim=-1, keepdim=True)
    points = [(b, k) for b in range(2) for k in range(chosen.valid.shape[1]) if chosen.valid[b, k]]
    losses: dict = {}
    for b, k in points:
        region = int(chosen.region[b, k]) if anchors == "regions" else 0
        if region < 0:
            continue
        others = [torch.dot(h[b, k], t[p]) / 0.3 for p in points if negatives == "batch" or p[0] == b]
        loss = torch.logsumexp(torch.stack(others), 0) - torch.dot(h[b, k], t[b, k]) / 0.3
        losses.setdefault((b, region), []).append(loss.item())
    assert len({b for b, _ in losses}) == 2 and (anchors == "all" or len(losses) > 4)
    by_region = {key: sum(values) / len(values) for key, values in losses.items()}
    if negatives == "batch":  # every region of the batch weighs the same
        expected = sum(by_region.values()) / len(by_region)
    else:  # every region of a sweep, and every sweep
        sweeps = [[value for key, value in by_region.items() if key[0] == b] for b in range(2)]
        expected = sum(sum(values) / len(values) for values in sweeps) / 2
    assert found.item() == pytest.approx(expected, rel=1e-4)
    found.backward()
    assert all(p.grad is not None for p in (*student.parameters(), *pretext.projector.parameters()))


def test_an_export_teaches_by_its_map(run: Path, tmp_path: Path) -> None:
    export_backbone(run, tmp_path / "export")
    student, pretext = Camera(), RegionDistillation(dict(init_from=str(tmp_path / "export")), rich=32, poor=32)
    pretext.attach(student)
    assert pretext.teacher_projector is None and pretext.projector.projection_dim == 12
    assert torch.isfinite(pretext(student, batch_of(student))["loss"])


@pytest.mark.parametrize("foreground", [True, False])
def test_feature_distillation_is_a_squared_distance(run: Path, foreground: bool) -> None:
    student = Camera()
    pretext = FeatureDistillation(dict(init_from=str(run)), points=64, foreground=foreground)
    pretext.attach(student)
    batch = batch_of(student)
    torch.manual_seed(1)
    loss = pretext(student, batch)["loss"]
    torch.manual_seed(1)
    mine, theirs, chosen = pretext.read(student, batch)
    rich = (chosen.region[chosen.valid] >= 0).float().mean()
    assert rich == pytest.approx(0.5) if foreground else rich < 0.5
    teacher = theirs[chosen.valid]
    difference = pretext.adapter(mine[chosen.valid]) - teacher / teacher.std(0, correction=0).clamp(min=1e-3)
    assert loss.item() == pytest.approx(difference.square().mean().item(), rel=1e-4)
    loss.backward()
    assert all(p.grad is not None for p in (*student.parameters(), *pretext.adapter.parameters()))


def test_a_sweep_without_points_teaches_nothing(run: Path) -> None:
    student = Camera()
    batch = batch_of(student)
    for key in ("points", "region", "point_id"):
        batch[key] = [value[:0] for value in batch[key]]
    teacher = dict(init_from=str(run))
    other = RegionDistillation(teacher, hidden_dim=0, space="map", anchors="all", negatives="batch")
    for pretext in (RegionDistillation(teacher), other, FeatureDistillation(teacher)):
        pretext.attach(student)
        loss = pretext(student, batch)["loss"]
        loss.backward()
        assert loss.item() == 0.0


def test_students_that_read_points_must_read_the_same(run: Path) -> None:
    student = Camera(point_range=(-32.0, -32.0, -3.0, 32.0, 32.0, 4.0))
    pretext = RegionDistillation(dict(init_from=str(run)))
    pretext.attach(student)
    with pytest.raises(DataError, match="give both the same"):
        pretext(student, batch_of(student))


def test_faults_are_named() -> None:
    with pytest.raises(ConfigError, match=r"dict\(init_from=RUN\)"):
        RegionDistillation("runs/x")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"'region'.*nearest is 'regions'"):
        RegionDistillation(dict(init_from="runs/x"), anchors="region")


def test_pictures_show_student_and_teacher(run: Path) -> None:
    student, pretext = Camera(), RegionDistillation(dict(init_from=str(run)))
    pretext.attach(student)
    picture = pretext.pictures(student, batch_of(student))["bev_features"]
    assert picture.ndim == 3 and picture.std() > 0

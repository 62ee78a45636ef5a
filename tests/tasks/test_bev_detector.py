"""The centre head and the detector around it."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_bev import TinyBEV, scene_batch

from perception.errors import ConfigError, DataError
from perception.geometry.grid import BEVGrid
from perception.losses.centre_heatmap import encode_boxes
from perception.registry import MODELS
from perception.signatures import signature_of
from perception.tasks.bev_detector import BEVDetector
from perception.tasks.centre_head import PRESETS, CentreHead, group_classes

NUSCENES = [
    "car",
    "truck",
    "trailer",
    "bus",
    "construction_vehicle",
    "bicycle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
]
GRID = BEVGrid((-8.0, 8.0), (-4.0, 4.0), (-3.0, 1.0), (0.5, 0.5))


def detector(**changed):
    torch.manual_seed(0)
    return BEVDetector(**{"backbone": TinyBEV(), "classes": ("car", "pedestrian"), "width": 16, **changed})


def prepared(model, batch, training=True):
    (found,) = model.data_preprocessor(batch, training)
    return found


def outputs_of(head, boxes, labels, velocity=None, sharpness=8.0):
    """What a head would give that has learned ``boxes`` of one sample by heart: peaks of 1 and the right codes."""
    found = []
    for target in head.targets([boxes], [labels], None if velocity is None else [velocity]):
        logits = torch.full_like(target.heatmap, -sharpness)
        logits[target.heatmap == 1] = sharpness
        codes = torch.zeros(1, target.code.shape[1], *head.grid.shape)
        codes[0, :, target.row, target.column] = target.code.nan_to_num().T
        found.append((logits, codes))
    return found


def test_groups_of_nuscenes_and_of_classes_that_nobody_knows():
    names = [[NUSCENES[i] for i in group] for group in group_classes(NUSCENES, PRESETS["nuscenes"].groups)]
    assert names == [
        ["car"],
        ["truck", "construction_vehicle"],
        ["bus", "trailer"],
        ["barrier"],
        ["motorcycle", "bicycle"],
        ["pedestrian", "traffic_cone"],
    ]
    assert group_classes(["tram", "truck", "dog"], PRESETS["nuscenes"].groups) == [[1], [0], [2]]
    with pytest.raises(ConfigError, match="car"):
        group_classes(["car"], [["car"], ["car"]])


def test_the_radii_are_metres_and_follow_their_groups():
    model = detector(classes=("pedestrian", "car"))
    # The public numbers 4 and 0.175 are squares of metres.
    assert model.decode_options["radii"] == pytest.approx([2.0, math.sqrt(0.175)])
    assert detector(classes=("tram", "car")).decode_options["radii"] == pytest.approx([2.0, 2.0])
    assert detector(radii=(1.0, 0.5)).decode_options["radii"] == [1.0, 0.5]


def test_sizes_of_the_head():
    head = CentreHead(12, GRID, NUSCENES, group_classes(NUSCENES, PRESETS["nuscenes"].groups))
    outputs = head(torch.randn(2, 12, 16, 32))
    assert [heat.shape[1] for heat, _ in outputs] == [1, 2, 2, 1, 2, 2]
    assert all(code.shape == (2, 10, 16, 32) for _, code in outputs)
    assert {n.split(".")[0] for n in head.state_dict()} == {"shared_conv", "task_heads"}
    assert "task_heads.0.heatmap.0.conv.weight" in head.state_dict()
    assert "task_heads.5.vel.1.weight" in head.state_dict()
    # An untrained heatmap says 10 % at most places.
    assert torch.sigmoid(head.task_heads[0]["heatmap"][-1].bias).item() == pytest.approx(0.1, abs=0.001)


def test_what_was_encoded_is_decoded():
    batch = scene_batch((6,))
    boxes, labels, velocity = batch["boxes"][0], batch["box_label"][0], torch.randn(6, 2)
    head = CentreHead(4, GRID, ("car", "pedestrian"), [[0], [1]])
    (found,) = head.decode(outputs_of(head, boxes, labels, velocity), "none", (1.0, 1.0))
    assert len(found.boxes) == 6 and (found.scores > 0.999).all()
    nearest = torch.cdist(boxes[:, :2], found.boxes[:, :2]).argmin(1)
    assert (found.boxes[nearest] - boxes).abs().max() < 1e-4
    assert (found.velocity[nearest] - velocity).abs().max() < 1e-5
    assert torch.equal(found.labels[nearest], labels)


def test_only_peaks_become_boxes():
    head = CentreHead(4, GRID, ("car",), [[0]], velocity=False)
    logits = torch.full((1, 1, 16, 32), -8.0)
    logits[0, 0, 8, 10], logits[0, 0, 8, 11], logits[0, 0, 8, 12], logits[0, 0, 2, 2] = 3.0, 2.0, 1.0, 0.0
    outputs = [(logits, torch.zeros(1, 8, 16, 32))]
    (peaks,) = head.decode(outputs, "none", (1.0,))
    # (8, 12) has the higher (8, 11) beside it, though it is two cells from the peak.
    assert peaks.scores.tolist() == pytest.approx([torch.tensor(3.0).sigmoid().item(), 0.5])
    assert peaks.boxes[0, :2].tolist() == [-8 + 10 * 0.5, -4 + 8 * 0.5]
    (all_cells,) = head.decode(outputs, "none", (1.0,), peak=1)
    assert len(all_cells.scores) == 4
    assert len(head.decode(outputs, "none", (1.0,), peak=1, score=0.6)[0].scores) == 3
    assert len(head.decode(outputs, "none", (1.0,), peak=1, top=2)[0].scores) == 2
    assert len(head.decode(outputs, "none", (1.0,), peak=1, keep=1)[0].scores) == 1


def test_suppression_by_circle_and_by_overlap():
    head = CentreHead(4, GRID, ("car",), [[0]], velocity=False)
    row, column, _, code = encode_boxes(
        torch.tensor(
            [
                [0.1, 0.1, -1.0, 4.0, 2.0, 1.5, 0.0],
                [2.1, 0.1, -1.0, 4.0, 2.0, 1.5, 0.0],  # 2 m off: half overlaps
                [0.1, 2.6, -1.0, 4.0, 2.0, 1.5, 0.0],  # 2.5 m off: beside it
            ]
        ),
        GRID,
    )
    logits, codes = torch.full((1, 1, 16, 32), -8.0), torch.zeros(1, 8, 16, 32)
    logits[0, 0, row, column] = torch.tensor([3.0, 2.0, 1.0])
    codes[0, :, row, column] = code.T
    kept = {
        nms: len(head.decode([(logits, codes)], nms, (radius,))[0].boxes)
        for nms, radius in (("none", 0), ("rotated", 0))
    }
    assert kept == {"none": 3, "rotated": 2}
    circles = [len(head.decode([(logits, codes)], "circle", (radius,))[0].boxes) for radius in (1.9, 2.2, 2.6)]
    assert circles == [3, 2, 1]


def test_predictions_that_are_not_finite_or_far_out_are_dropped():
    head = CentreHead(4, GRID, ("car",), [[0]], velocity=False)
    logits, codes = torch.full((1, 1, 16, 32), -8.0), torch.zeros(1, 8, 16, 32)
    logits[0, 0, 2, 2] = logits[0, 0, 8, 8] = logits[0, 0, 12, 20] = 3.0
    codes[0, 0, 2, 2], codes[0, 0, 8, 8] = math.nan, 1e4
    (found,) = head.decode([(logits, codes)], "rotated", (1.0,), limit=61.2)
    assert len(found.boxes) == 1 and found.boxes[0, 0] == -8 + 20 * 0.5


def test_losses_are_named_by_group_and_reach_every_parameter():
    model = detector().train()
    losses = model(prepared(model, scene_batch()), "loss")
    assert set(losses) == {
        "loss_heatmap_car", "loss_box_car", "loss_heatmap_pedestrian", "loss_box_pedestrian", "boxes_dropped"
    }  # fmt: skip
    total, _ = model.parse_losses(losses)
    total.backward()
    assert all(p.grad is not None for p in model.parameters())
    # Every velocity is unknown: nothing is learned about them.
    for head in model.bbox_head.task_heads:
        assert head["vel"][-1].weight.grad.abs().sum() == 0
        assert head["reg"][-1].weight.grad.abs().sum() > 0


def test_the_loss_is_near_zero_for_perfect_outputs():
    model = detector()
    batch = scene_batch((5,))
    boxes, labels = batch["boxes"][0], batch["box_label"][0]
    targets = model.bbox_head.targets([boxes], [labels], batch["velocity"])
    perfect = []
    for target in targets:
        logits = torch.logit(target.heatmap.clamp(1e-4, 1 - 1e-4))
        codes = torch.zeros(1, 10, *model.bbox_head.grid.shape)
        codes[0, :, target.row, target.column] = target.code.nan_to_num().T
        perfect.append((logits, codes))
    losses = model.bbox_head.loss(perfect, targets)
    assert losses["loss_box_car"].item() == 0
    # A Gaussian's flank costs a little even at its own height; a head that says 10 % everywhere costs much more.
    prior = [(torch.full_like(heat, -2.19), code) for heat, code in perfect]
    assert losses["loss_heatmap_car"] < 0.2 * model.bbox_head.loss(prior, targets)["loss_heatmap_car"]


def test_frames_without_boxes_train():
    model = detector().train()
    losses = model(prepared(model, scene_batch((0, 0))), "loss")
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert losses["loss_box_car"] == 0 and losses["boxes_dropped"] == 0


def test_boxes_outside_the_range_are_counted():
    model = detector().train()
    batch = scene_batch((4,))
    batch["boxes"][0][0, 0] = 30.0
    batch["boxes"][0][1, 3] = 0.0
    batch["box_label"][0][2] = -1  # unlabelled, not dropped
    losses = model(prepared(model, batch), "loss")
    assert losses["boxes_dropped"] == 2
    assert all(value.isfinite() for value in losses.values())


def test_a_frozen_backbone_does_not_move():
    model = detector(frozen=True).train()
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    total, _ = model.parse_losses(model(prepared(model, scene_batch()), "loss"))
    total.backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.backbone.state_dict().items())
    assert model.bbox_head.training and not model.backbone.training


def test_a_detector_learns_its_scene():
    model = detector(score=0.3, nms="none").train()  # two cars stand 1.5 m apart
    batch = scene_batch((3,), seed=4)
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(150):
        total, _ = model.parse_losses(model(prepared(model, batch), "loss"))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    (found,) = model.eval().val_step(batch)
    assert found["index"].tolist() == [0]
    boxes = batch["boxes"][0]
    distance = torch.cdist(boxes[:, :2], found["boxes"][0][:, :2])
    assert distance.min(1).values.max() < 0.2
    nearest = distance.argmin(1)
    assert torch.equal(found["labels"][0][nearest], batch["box_label"][0])
    assert (found["boxes"][0][nearest, 3:6] - boxes[:, 3:6]).abs().max() < 0.3


def test_prediction_gives_lists_by_sample_and_is_deterministic():
    model = detector(score=0.05).eval()
    once, again = model.val_step(scene_batch())[0], model.test_step(scene_batch())[0]
    assert [len(b) for b in once["boxes"]] == [len(s) for s in once["scores"]] == [len(v) for v in once["velocity"]]
    assert len(once["boxes"]) == 3
    assert all(torch.equal(a, b) for a, b in zip(once["boxes"], again["boxes"], strict=True))
    assert all((s[:-1] >= s[1:]).all() for s in once["scores"])
    kitti = detector(classes=("Car",), preset="kitti").eval()
    assert "velocity" not in kitti.val_step({"points": [torch.rand(5, 4)]})[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boxes": None}, "'boxes'"),
        ({"box_label": [torch.tensor([0, 2]), torch.tensor([]).long(), torch.tensor([0])]}, "sample 0: label 2"),
        ({"box_label": [torch.tensor([0])] * 3}, r"sample 0: boxes \(2, 7\)"),
        ({"velocity": [torch.zeros(1, 2)] * 3}, "velocities"),
        ({"meta": {"classes": ("car", "truck")}}, "car, truck"),
    ],
)
def test_impossible_labels_are_named(change, words):
    model = detector()
    with pytest.raises(DataError, match=words):
        prepared(model, {**scene_batch(), **change})


def config(**changed):
    arguments = signature_of(BEVDetector).arguments
    defaults = {name: argument.default for name, argument in arguments.items() if not argument.required}
    return {**defaults, "backbone": {}, "classes": ("car", "pedestrian"), **changed}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", ("car", "car")),
        ("preset", "waymo"),
        ("nms", "square"),
        ("groups", [["car", "tram"]]),
        ("groups", [["car"], ["car"]]),
        ("radii", [1.0]),
        ("iou", 1.0),
        ("score", -0.1),
        ("peak", 2),
        ("keep", 0),
        ("roots", "square"),
        ("min_radius", -1),
        ("backbone", {"type": "ConvNet"}),
    ],
)
def test_check_config_names_the_key(key, value):
    assert list(BEVDetector.check_config(config())) == []
    assert key in [found for found, _ in BEVDetector.check_config(config(**{key: value}))]


def test_backbones_without_a_map_are_refused():
    with pytest.raises(ConfigError, match="bird's-eye-view"):
        MODELS.build(
            {
                "type": "BEVDetector",
                "classes": ("car",),
                "backbone": {"type": "ConvNet", "preprocess": {"type": "ImagePreprocess", "size": 8}},
            }
        )


def test_a_backbone_starts_from_the_weights_of_a_run(tmp_path):
    trained = TinyBEV()
    torch.nn.init.constant_(trained.body[0].weight, 0.5)
    state = {f"backbone.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": {**state, "bbox_head.other": torch.zeros(3)}}, tmp_path / "run.pth")
    model = detector(backbone={"type": "TinyBEV", "init_from": str(tmp_path / "run.pth")}, frozen=True)
    assert (model.backbone.body[0].weight == 0.5).all()

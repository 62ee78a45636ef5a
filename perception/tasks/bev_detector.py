"""Detection of boxes on the bird's-eye-view map of any driving backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from perception.backbones.bev_base import BEVBackbone
from perception.errors import ConfigError, DataError, check_arguments, not_among
from perception.losses.centre_heatmap import ROOTS
from perception.registry import MODELS
from perception.tasks.base import BatchPreprocessor
from perception.tasks.bev_task import BEVTask, backbone_kind, task_faults
from perception.tasks.centre_head import NMS, PRESETS, CentreHead, group_classes
from perception.transforms.preprocess import Batch, Preprocess


@MODELS.register_module()
class BEVDetector(BEVTask):
    """A backbone and a centre-heatmap head ("Center-based 3D Object Detection and Tracking", Yin et al., CVPR 2021).

    A batch carries ``boxes`` and ``box_label`` and, for heads that tell it, ``velocity``. Boxes whose centre is outside
    the grid, that are not finite or have no size cannot be learned; the log counts them as ``boxes_dropped``.

    Args:
        backbone: config or instance of a ``BEVBackbone``; ``init_from`` in its config starts from a pre-training run.
        classes: class names in the order of the labels.
        preset: ``'nuscenes'`` or ``'kitti'``: the groups of classes, NMS and velocity that follow where they are None.
        groups: class names of every group that shares branches; a class in none has a group of its own.
        velocity: tell velocities.
        width: channels of the head.
        overlap: of the Gaussian radius.
        min_radius: smallest Gaussian radius in cells.
        roots: see ``perception.losses.centre_heatmap.gaussian_radius``.
        box_weight: weight of the box loss.
        depth_weight: weight of ``loss_depth``, by which the points of a batch teach the depths of its cameras: 3.0 in
            "BEVDepth: Acquisition of Reliable Depth for Multi-view 3D Object Detection" (Li et al., AAAI 2023). For
            ``LiftSplat`` and for the camera branch of ``BEVFusion``; 0 leaves it out. The points need not be an input
            of the model, only points that its record keeps teach.
        nms: ``'circle'``, ``'rotated'`` or ``'none'``.
        radii: metres of circle NMS, one for every group.
        iou: overlap that rotated NMS allows.
        score: lowest score of a box.
        peak: side of the square of cells that a peak must top; 1 takes every cell.
        top: cells of a group that are looked at.
        keep: most boxes of a group and sample.
        frozen: keep the backbone in eval mode and without gradients, whatever ``.train()`` is told.
    """

    def __init__(
        self,
        backbone: BEVBackbone | dict[str, Any],
        classes: Sequence[str],
        preset: str = "nuscenes",
        groups: Sequence[Sequence[str]] | None = None,
        velocity: bool | None = None,
        width: int = 64,
        overlap: float = 0.1,
        min_radius: int = 2,
        roots: str = "cornernet",
        box_weight: float = 0.25,
        depth_weight: float = 0.0,
        nms: str | None = None,
        radii: Sequence[float] | None = None,
        iou: float = 0.2,
        score: float = 0.1,
        peak: int = 3,
        top: int = 500,
        keep: int = 83,
        frozen: bool = False,
    ) -> None:
        check_arguments("model", self.check_config, locals())
        super().__init__(backbone, frozen)
        fault = self.backbone.depth_fault() if depth_weight else None
        if fault is not None:
            text = f"{fault.message}, as depth_weight = {depth_weight:g} needs"
            raise ConfigError([replace(fault, path=f"model.backbone.{fault.path}", message=text)])
        self.classes = tuple(classes)
        self.data_preprocessor = BoxCheck(self.backbone.preprocess, self.classes)
        shared = PRESETS[preset]
        with_velocity = shared.velocity if velocity is None else velocity
        labels = group_classes(self.classes, shared.groups if groups is None else groups)
        self.bbox_head = CentreHead(
            self.backbone.bev_channels, self.backbone.grid, self.classes, labels, with_velocity, width
        )
        self.target_options = {"overlap": overlap, "min_radius": min_radius, "roots": roots}
        self.box_weight, self.depth_weight = box_weight, depth_weight
        self.decode_options: dict[str, Any] = {
            "nms": nms or shared.nms,
            "radii": _radii(radii, preset, self.classes, labels),
            "iou": iou,
            "score": score,
            "peak": peak,
            "top": top,
            "keep": keep,
            "limit": shared.limit,
        }

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Faults of a config that can be seen before anything is built: (key, message)."""
        yield from task_faults(cfg)
        names = list(cfg["classes"])
        if not names or len(set(names)) < len(names):
            yield "classes", "needs class names, each once"
        if cfg["preset"] not in PRESETS:
            yield "preset", f"is {not_among(str(cfg['preset']), PRESETS)}"
            return
        if cfg["nms"] is not None and cfg["nms"] not in NMS:
            yield "nms", f"is {not_among(str(cfg['nms']), NMS)}"
        if cfg["roots"] not in ROOTS:
            yield "roots", f"is {not_among(str(cfg['roots']), ROOTS)}"
        groups = cfg["groups"]
        unknown = [name for group in groups or () for name in group if name not in names]
        if unknown:
            yield "groups", f"{unknown[0]!r} is {not_among(unknown[0], names)}"
        try:
            count = len(group_classes(names, PRESETS[cfg["preset"]].groups if groups is None else groups))
        except ConfigError as error:
            yield "groups", str(error)
        else:
            if cfg["radii"] is not None and (len(cfg["radii"]) != count or min(cfg["radii"]) <= 0):
                yield "radii", f"needs one number of metres above 0 for each of the {count} groups"
        for key in ("overlap", "iou"):
            if not 0 < cfg[key] < 1:
                yield key, "must lie between 0 and 1"
        if not 0 <= cfg["score"] < 1:
            yield "score", "must lie in [0, 1)"
        if cfg["peak"] < 1 or cfg["peak"] % 2 == 0:
            yield "peak", "must be an odd number of cells"
        for key in ("width", "top", "keep"):
            if cfg[key] < 1:
                yield key, "must be at least 1"
        for key in ("min_radius", "depth_weight"):
            if cfg[key] < 0:
                yield key, "must not be negative"
        kind = backbone_kind(cfg["backbone"])
        if cfg["depth_weight"] > 0 and getattr(kind, "depth_fault", None) is BEVBackbone.depth_fault:
            yield "depth_weight", f"{kind.__name__} has no camera branch that tells depths, as LiftSplat does"
        if cfg["depth_weight"] > 0 and cfg["frozen"]:
            yield "depth_weight", "teaches the backbone, which frozen = True keeps as it is: one of the two must go"

    def forward(self, batch: Batch, mode: str = "loss") -> dict[str, Any]:  # type: ignore[override]
        """Losses, or boxes by sample, of a preprocessed batch.

        Returns:
            ``mode='loss'``: ``loss_heatmap_<group>`` and ``loss_box_<group>`` by the first class of each group,
            ``loss_depth`` if it has a weight, and ``boxes_dropped``. ``mode='predict'``: lists over samples, best
            first, ``boxes`` (n, 7), ``scores`` (n,), ``labels`` (n,) and, if told, ``velocity`` (n, 2); and ``index``
            (B,).
        """
        alpha = None
        if mode == "loss" and self.depth_weight:
            if batch.get("points") is None:
                raise DataError(
                    f"depth_weight = {self.depth_weight:g} teaches depths by 'points', but the batch holds "
                    f"{sorted(batch)}: let the data set give points (lidar=True), or set depth_weight = 0"
                )
            bev, alpha = self.backbone.bev_and_depth(batch)
        else:
            bev = self.bev(batch)
        outputs = self.bbox_head(bev)
        if mode == "loss":
            targets = self.bbox_head.targets(
                batch["boxes"], batch["box_label"], batch.get("velocity"), **self.target_options
            )
            losses = self.bbox_head.loss(outputs, targets, self.box_weight)
            if alpha is not None:
                losses["loss_depth"] = self.depth_weight * self.backbone.depth_loss(alpha, batch)
            learned = sum(len(target.code) for target in targets)
            labelled = sum(int((label >= 0).sum()) for label in batch["box_label"])
            return {**losses, "boxes_dropped": outputs[0][0].new_tensor(float(labelled - learned))}
        detections = self.bbox_head.decode(outputs, **self.decode_options)
        found: dict[str, Any] = {name: [getattr(d, name) for d in detections] for name in ("boxes", "scores", "labels")}
        if detections[0].velocity is not None:
            found["velocity"] = [d.velocity for d in detections]
        if "index" in batch:
            found["index"] = batch["index"]
        return found


class BoxCheck(BatchPreprocessor):
    """Preprocesses a batch after a look at its labels, while they still lie on the host."""

    def __init__(self, preprocess: Preprocess, classes: tuple[str, ...]) -> None:
        super().__init__(preprocess)
        self.classes = classes

    def forward(self, data: Batch, training: bool = False) -> tuple[Batch]:  # type: ignore[override]
        """Preprocessed batch on the device, as a one-tuple."""
        if training or (data.get("boxes") is not None and data.get("box_label") is not None):
            check_boxes(data, self.classes)
        return super().forward(data, training)


def check_boxes(batch: Batch, classes: Sequence[str]) -> None:
    """Raise a ``DataError`` about labels that no head for ``classes`` can learn; labels below 0 count as none."""
    for key in ("boxes", "box_label"):
        if batch.get(key) is None:
            raise DataError(f"a detector trains on {key!r}, but the batch holds only {sorted(batch)}")
    theirs = tuple(batch.get("meta", {}).get("classes", ()))
    if theirs and theirs != tuple(classes):
        raise DataError(f"the data set has the classes {', '.join(theirs)}, but model.classes = {', '.join(classes)}")
    velocity = batch.get("velocity") or [None] * len(batch["boxes"])
    for place, (boxes, label, speed) in enumerate(zip(batch["boxes"], batch["box_label"], velocity, strict=True)):
        name = f"sample {int(batch['index'][place]) if 'index' in batch else place}"
        if boxes.ndim != 2 or boxes.shape[1] != 7 or label.shape != boxes.shape[:1]:
            raise DataError(
                f"{name}: boxes {tuple(boxes.shape)} and labels {tuple(label.shape)} are not (M, 7) and (M,)"
            )
        if speed is not None and speed.shape != (len(boxes), 2):
            raise DataError(f"{name}: {len(boxes)} boxes, but velocities of shape {tuple(speed.shape)}")
        if len(label) and int(label.max()) >= len(classes):
            raise DataError(f"{name}: label {int(label.max())} is out of range: there are {len(classes)} classes")


def _radii(
    radii: Sequence[float] | None, preset: str, classes: Sequence[str], labels: Sequence[Sequence[int]]
) -> list[float]:
    """Metres of circle NMS for every group: those given, else those of the preset's group of its first class."""
    if radii is not None:
        return [float(r) for r in radii]
    shared = PRESETS[preset]
    known = {name: radius for group, radius in zip(shared.groups, shared.radii, strict=True) for name in group}
    return [known.get(classes[group[0]], shared.radii[0]) for group in labels]

"""RAD: a camera branch learns the map of a frozen LiDAR branch where objects are, the second stage of CALICO.

"CALICO: Self-Supervised Camera-LiDAR Contrastive Pre-training for BEV Perception", Sun et al., ICLR 2024, and beside
it the plain distillation of features, in the manner of "BEVDistill: Cross-Modal BEV Distillation for Multi-View 3D
Object Detection", Chen et al., ICLR 2023. Both maps are read at the same points of the sweep, so they may have cells of
different size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.backbones.bev_base import BEVBackbone
from perception.checkpoint import find_checkpoint, load_checkpoint, model_state
from perception.errors import ConfigError, DataError, check_arguments, not_among
from perception.exporting import is_export, load_backbone
from perception.geometry.grid import sample_bev
from perception.layers.linear import Linear
from perception.losses.point_region import region_distillation
from perception.pretext.base import Pretext
from perception.pretext.bev_points import PointSample, Projector, contrast_faults, require_map, sample_points
from perception.pretext.pictures import principal_colours, tile
from perception.pretext.teacher import as_teacher
from perception.registry import PRETEXTS
from perception.transforms.preprocess import Batch

SPACES = ("projector", "map")
ANCHORS = ("regions", "all")
NEGATIVES = ("sweep", "batch")
_POINT_KEYS = ("points", "region", "point_id", "lidar_aug")


class _FromTeacher(Pretext):
    """What both distillations share: a frozen backbone of another sensor, and points that both maps are read at."""

    teacher: BEVBackbone

    def __init__(self, teacher: Mapping[str, Any], rich: int, poor: int, by_region: bool) -> None:
        super().__init__()
        self.source = str(teacher["init_from"])
        self.rich, self.poor, self.by_region = rich, poor, by_region
        found = load_backbone(self.source)
        self.teacher = as_teacher(require_map(found, self))

    def train(self, mode: bool = True) -> _FromTeacher:
        """As torch's, but the teacher stays in eval mode: statistics of its norms do not move."""
        super().train(mode)
        self.teacher.eval()
        return self

    def read(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, Tensor, PointSample]:
        """Vectors (B, K, C) of the student and (B, K, C') of the teacher at the same points, and the points.

        Raises:
            DataError: the batch has no points, or a student that reads points, too, has prepared them otherwise than
                the teacher's record says.
        """
        student = require_map(backbone, self)
        if batch.get("points") is None:
            raise DataError(f"{type(self).__name__} reads the teacher's map of 'points'; the batch has {sorted(batch)}")
        sweep = {key: batch[key] for key in _POINT_KEYS if batch.get(key) is not None}
        prepared = _point_record(student)
        if prepared is None:
            sweep = self.teacher.preprocess(sweep)
        elif prepared != _point_record(self.teacher):
            raise DataError(
                f"the student's Preprocess record prepares points by {prepared}, the teacher's ({self.source}) by "
                f"{_point_record(self.teacher)}: give both the same"
            )
        # Where both maps are: the smaller of the two rectangles decides.
        grids = sorted((student.grid, self.teacher.grid), key=lambda g: (g.x[1] - g.x[0]) * (g.y[1] - g.y[0]))
        chosen = sample_points([sweep], grids[0], self.rich, self.poor, self.by_region)
        with torch.no_grad():
            theirs = sample_bev(self.teacher.bev(sweep), chosen.xy[0], self.teacher.grid)
        mine = sample_bev(student.bev(batch), chosen.xy[0], student.grid)
        assert isinstance(mine, Tensor) and isinstance(theirs, Tensor)
        return mine, theirs, chosen

    @torch.no_grad()
    def pictures(self, backbone: Backbone, batch: Batch) -> dict[str, np.ndarray]:
        """``bev_features``: in every row the student's map and the teacher's, main directions as colours, north up."""
        student = require_map(backbone, self)
        few = {key: value[:4] for key, value in batch.items() if isinstance(value, (list, Tensor)) and len(value)}
        sweep = {key: few[key] for key in _POINT_KEYS if key in few}
        maps = student.bev(few), self.teacher.bev(sweep if _point_record(student) else self.teacher.preprocess(sweep))
        shown = [torch.from_numpy(principal_colours(found)).float() for found in maps]
        shown[1] = F.interpolate(shown[1], size=shown[0].shape[-2:])
        both = torch.stack(shown, dim=1).flip(-2).byte().numpy()
        return {"bev_features": tile(both, scale_to=192)}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in)."""
        teacher = cfg["teacher"]
        if not isinstance(teacher, Mapping) or set(teacher) != {"init_from"}:
            yield "teacher", "must be dict(init_from=RUN): a run, checkpoint or export of the LiDAR branch"


@PRETEXTS.register_module()
class RegionDistillation(_FromTeacher):
    """The student's embedding of a point has to find the teacher's among all; every region weighs the same (RAD).

    The paper leaves open in which space points are compared, with which points, and how the student gets there.

    Args:
        teacher: ``dict(init_from=RUN)``: the run, checkpoint or export of a LiDAR branch.
        rich: points of regions that are drawn from a sweep.
        poor: points without a region that are drawn; negatives, and with ``anchors="all"`` anchors, too.
        temperature: of the softmax.
        hidden_dim: width of the student's projector; ``None`` takes that of its map, 0 makes it a linear map.
        space: ``projector``: the teacher's embeddings, through the projector that it was contrasted with, which stays
            as it is; ``map``: the vectors of its map, channels brought to mean 0 and variance 1 over the points of the
            batch. An export has no projector and teaches by its map.
        anchors: ``regions``: points of regions, every region of the same weight; ``all``: all points that are drawn,
            each of the same, so that regions come in by ``rich`` and ``poor`` alone.
        negatives: ``sweep``: points of the same sweep; ``batch``: those of all sweeps of a process.

    ``forward`` gives ``loss`` and, for the log, ``agreement``: the mean cosine of the two embeddings of a point.
    """

    projector: Projector | Linear

    def __init__(
        self,
        teacher: Mapping[str, Any],
        rich: int = 1024,
        poor: int = 1024,
        temperature: float = 0.07,
        hidden_dim: int | None = None,
        space: str = "projector",
        anchors: str = "regions",
        negatives: str = "sweep",
    ) -> None:
        check_arguments("model.pretexts.rad", self.check_config, locals())
        super().__init__(teacher, rich, poor, by_region=True)
        self.temperature, self.hidden_dim = temperature, hidden_dim
        self.all_anchors, self.over_batch = anchors == "all", negatives == "batch"
        self.teacher_projector = None
        if space == "projector":
            self.teacher_projector = _projector_of(self.source, self.teacher.bev_channels)

    def attach(self, backbone: Backbone) -> None:
        """Build the student's projector into the teacher's space."""
        theirs = self.teacher_projector
        width = self.teacher.bev_channels if theirs is None else theirs.projection_dim
        dims = require_map(backbone, self).bev_channels
        self.projector = Linear(dims, width) if self.hidden_dim == 0 else Projector(dims, self.hidden_dim, width)

    def train(self, mode: bool = True) -> RegionDistillation:
        """As torch's, but the teacher and its projector stay in eval mode."""
        super().train(mode)
        if self.teacher_projector is not None:
            self.teacher_projector.eval()
        return self

    def forward(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """``loss`` and ``agreement`` of a batch with ``cams``, ``points`` and ``region``."""
        mine, theirs, chosen = self.read(backbone, batch)
        student = self.embed(mine, chosen.valid)
        with torch.no_grad():
            teacher = self.embed_teacher(theirs, chosen.valid)
            rich = chosen.valid & (chosen.region >= 0)
            cosine = (student.detach() * teacher).sum(dim=-1)[rich]
            agreement = cosine.mean() if len(cosine) else cosine.new_zeros(())
        region, valid = chosen.region, chosen.valid
        if self.all_anchors:
            region = torch.where(valid, 0, -1)
        if self.over_batch and region.numel():
            count = region.max() + 1
            first = count * torch.arange(len(region), device=region.device).unsqueeze(1)
            region = torch.where(region >= 0, region + first, -1).reshape(1, -1)
            student, teacher, valid = (part.flatten(0, 1).unsqueeze(0) for part in (student, teacher, valid))
        loss = region_distillation(student, teacher, region, valid, self.temperature)
        return {"loss": loss, "agreement": agreement}

    def embed(self, vectors: Tensor, valid: Tensor) -> Tensor:
        """Vectors (B, K, C) of the student's map -> unit embeddings (B, K, E) in the teacher's space."""
        if isinstance(self.projector, Projector):
            found: Tensor = self.projector(vectors, valid)
            return found
        return F.normalize(self.projector(vectors).float(), dim=-1)

    def embed_teacher(self, vectors: Tensor, valid: Tensor) -> Tensor:
        """Vectors (B, K, C') of the teacher's map -> unit embeddings (B, K, E)."""
        if self.teacher_projector is not None:
            return self.teacher_projector(vectors, valid)
        vectors = vectors.float()
        real = vectors[valid]
        if len(real) < 2:  # nothing to standardise by
            return F.normalize(vectors, dim=-1)
        return F.normalize(scaled(vectors - real.mean(dim=0), real), dim=-1)

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in)."""
        yield from super().check_config(cfg)
        checked = {**cfg, "projection_dim": None, "hidden_dim": cfg["hidden_dim"] or None}
        yield from contrast_faults(checked, ("rich", "poor"))
        for key, known in (("space", SPACES), ("anchors", ANCHORS), ("negatives", NEGATIVES)):
            if cfg[key] not in known:
                yield key, not_among(cfg[key], known)


@PRETEXTS.register_module()
class FeatureDistillation(_FromTeacher):
    """Squared distance of the student's map, through a linear map, to the teacher's: plain distillation of features.

    Args:
        teacher: see ``RegionDistillation``.
        points: places that are drawn from a sweep: those of its points.
        foreground: draw half of them from the points of regions, as the foreground weighting of BEVDistill does with
            boxes; False draws from all alike.

    ``forward`` gives ``loss``, the mean over places and channels; the teacher's channels are scaled to unit variance
    over the batch.
    """

    adapter: Linear

    def __init__(self, teacher: Mapping[str, Any], points: int = 2048, foreground: bool = True) -> None:
        check_arguments("model.pretexts.distill", self.check_config, locals())
        half = points // 2
        super().__init__(teacher, points - half, half, by_region=foreground)

    def attach(self, backbone: Backbone) -> None:
        """Build the linear map from the student's channels to the teacher's."""
        self.adapter = Linear(require_map(backbone, self).bev_channels, self.teacher.bev_channels)

    def forward(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """``loss`` of a batch with ``cams``, ``points`` and ``region``."""
        mine, theirs, chosen = self.read(backbone, batch)
        student, teacher = self.adapter(mine[chosen.valid]).float(), theirs[chosen.valid].float()
        if len(teacher) < 2:
            return {"loss": student.sum() * 0.0}
        return {"loss": (student - scaled(teacher, teacher)).square().mean()}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in)."""
        yield from super().check_config(cfg)
        if not isinstance(cfg["points"], int) or cfg["points"] < 2:
            yield "points", "must be a whole number of at least 2"


def scaled(vectors: Tensor, real: Tensor) -> Tensor:
    """``vectors`` (..., C) with channels of variance 1 over ``real`` (n, C); one that is constant is not blown up."""
    return vectors / real.std(dim=0, correction=0).clamp(min=1e-3)


def _point_record(backbone: BEVBackbone) -> dict[str, Any] | None:
    """How a backbone's record prepares points; ``None`` where it leaves them alone."""
    record = backbone.preprocess.record()
    if record.get("point_range") is None:
        return None
    return {key: record[key] for key in ("point_range", "point_features", "intensity_scale")}


def _projector_of(source: str, dims: int) -> Projector | None:
    """The projector that a run was contrasted with, frozen; ``None`` of an export and of a run without one.

    Raises:
        ConfigError: the run has several.
    """
    if is_export(source):
        return None
    state = model_state(load_checkpoint(find_checkpoint(source)))
    mark = ".projector."
    owners = sorted({key.split(mark)[0] for key in state if key.startswith("pretexts.") and mark in key})
    if len(owners) > 1:
        raise ConfigError(f"{source} holds several projectors ({', '.join(owners)}); export its backbone to do without")
    if not owners:
        return None
    own = {key.split(mark)[1]: value for key, value in state.items() if key.startswith(owners[0] + mark)}
    weights = [value for key, value in own.items() if key.endswith("weight") and value.ndim == 2]
    projector = Projector(dims, len(weights[0]), len(weights[-1]))
    projector.load_state_dict(own)
    frozen: nn.Module = as_teacher(projector)
    assert isinstance(frozen, Projector)
    return frozen

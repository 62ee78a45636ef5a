"""Camera and LiDAR in one bird's-eye view.

"BEVFusion: Multi-Task Multi-Sensor Fusion with Unified Bird's-Eye View Representation" (Liu et al., 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from perception.backbones.bev_base import BEVBackbone
from perception.errors import ConfigError, DataError, Fault, check_arguments
from perception.geometry.grid import BEVGrid
from perception.layers.bev_conv import BEVNeck, BEVStages, out_stride, stage_faults
from perception.layers.fusion import ConvFuser, keep_one_at_least
from perception.registry import BACKBONES
from perception.transforms.driving_preprocess import DrivingPreprocess
from perception.transforms.preprocess import Batch, Preprocess

READS = {"lidar": "points", "camera": "cams"}
_CAMERA_FIELDS = ("image_size", "mean", "std")
_DECODER = ("layers", "strides", "channels", "scales", "neck_channels")
_SAME = 1e-6  # metres


@BACKBONES.register_module()
class BEVFusion(BEVBackbone):
    """A LiDAR and a camera branch, their maps fused, and a 2-D network on top; either branch may be left out.

    The branches are whole backbones, ``fusion.lidar`` and ``fusion.camera``, and work alone. Their maps must have the
    same cells.

    Args:
        lidar: config of a backbone that maps points, such as ``dict(type='PillarNet')``; with ``init_from`` it starts
            from a run or export of its own.
        camera: config of a backbone that maps cameras, such as ``dict(type='LiftSplat')``; likewise.
        fused_channels: channels after the fuser, which is there with both branches alone.
        decoder: 2-D network on the fused map: ``layers``, ``strides``, ``channels``, ``scales`` and ``neck_channels``
            as a ``PillarNet`` has them; BEVFusion's own are (5, 5), (1, 2), (128, 256), (1, 2) and (256, 256).
            ``None`` leaves the map as it is.
        drop_lidar: probability that a sample's LiDAR map is zero in training, so that the network bears its loss.
        drop_camera: the same of the cameras. Never both are dropped.
        preprocess: Preprocess record for both branches; ``None`` joins the records of the branches.

    A batch must hold what every branch reads. One that was trained to be dropped may be missing: its map is zero.
    """

    def __init__(
        self,
        lidar: dict[str, Any] | None = None,
        camera: dict[str, Any] | None = None,
        fused_channels: int = 256,
        decoder: dict[str, Any] | None = None,
        drop_lidar: float = 0.0,
        drop_camera: float = 0.0,
        preprocess: Preprocess | dict[str, Any] | None = None,
    ) -> None:
        check_arguments("model.backbone", self.check_config, locals())
        shared = {} if preprocess is None else {"preprocess": preprocess}
        branches = {
            name: _branch(name, {**config, **shared})
            for name, config in (("lidar", lidar), ("camera", camera))
            if config is not None
        }
        grid = _common_grid(branches)
        channels = [branch.bev_channels for branch in branches.values()]
        fused = fused_channels if len(branches) > 1 else channels[0]
        stages: nn.Module = nn.Identity()
        out = fused
        if decoder is not None:
            wrong = [*stage_faults(grid.shape, *(decoder[key] for key in _DECODER))]
            if wrong:
                raise ConfigError([Fault(f"model.backbone.decoder.{k}", decoder.get(k), text) for k, text in wrong])
            network = BEVStages(fused, decoder["layers"], decoder["strides"], decoder["channels"])
            neck = BEVNeck(decoder["channels"], decoder["scales"], decoder["neck_channels"])
            stages, out = nn.Sequential(network, neck), neck.out_channels
            grid = grid.coarser(out_stride(decoder["strides"], decoder["scales"]) or 1)
        super().__init__(preprocess or _joined_record(branches), grid, out)
        self.lidar: BEVBackbone | None = branches.get("lidar")
        self.camera: BEVBackbone | None = branches.get("camera")
        self.fuser = ConvFuser(channels, fused) if len(branches) > 1 else None
        self.decoder = stages
        self.drop_rates = {"lidar": drop_lidar, "camera": drop_camera}

    @property
    def branches(self) -> dict[str, BEVBackbone]:
        """The branches that there are, ``lidar`` first."""
        both = {"lidar": self.lidar, "camera": self.camera}
        return {name: branch for name, branch in both.items() if branch is not None}

    def branch_maps(self, batch: Batch) -> dict[str, Tensor | None]:
        """Map of every branch of a preprocessed batch; ``None`` of one that may be missing and is.

        Raises:
            DataError: the batch lacks what a branch reads.
        """
        return self._run({name: branch.bev for name, branch in self.branches.items()}, batch)

    def _run(self, runs: Mapping[str, Callable[[Batch], Any]], batch: Batch) -> dict[str, Any]:
        """What the functions of the branches make of a batch, see ``branch_maps``."""
        found: dict[str, Any] = {}
        for name, run in runs.items():
            if batch.get(READS[name]) is not None:
                found[name] = run(batch)
            elif self.fuser is not None and self.drop_rates[name] > 0 and not self.training:
                found[name] = None
            else:
                raise DataError(
                    f"the {name} branch reads {READS[name]!r}, but the batch holds {sorted(batch)}; use the other "
                    f"branch alone, or train with drop_{name} above 0 so that the fusion does without"
                )
        if all(result is None for result in found.values()):
            raise DataError(
                f"a batch needs {' or '.join(repr(READS[name]) for name in found)}; it holds {sorted(batch)}"
            )
        return found

    def bev(self, batch: Batch) -> Tensor:
        """The fused map (B, C, Ny, Nx) of a preprocessed batch."""
        return self._fused(self.branch_maps(batch))

    def depth_fault(self) -> Fault | None:
        """See ``BEVBackbone``. ``drop_camera`` does no harm: it blanks maps, not the depths before them."""
        if self.camera is None:
            return Fault("camera", None, "is missing: there are no depths to teach")
        fault = self.camera.depth_fault()
        return None if fault is None else replace(fault, path=f"camera.{fault.path}")

    def bev_and_depth(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The fused map (B, C, Ny, Nx), and the camera branch's distribution over depths (B, N, D, h, w).

        Raises:
            DataError: the batch lacks what a branch reads, the cameras in any case.
        """
        if batch.get(READS["camera"]) is None:
            raise DataError(f"depths are those of {READS['camera']!r}, but the batch holds {sorted(batch)}")
        runs = {name: branch.bev for name, branch in self.branches.items()}
        found = self._run({**runs, "camera": self._seeing().bev_and_depth}, batch)
        bev, alpha = found["camera"]
        return self._fused({**found, "camera": bev}), alpha

    def depth_loss(self, alpha: Tensor, batch: Batch) -> Tensor:
        """That of the camera branch."""
        return self._seeing().depth_loss(alpha, batch)

    def _seeing(self) -> BEVBackbone:
        """The camera branch."""
        if self.camera is None:
            raise ConfigError([Fault("model.backbone.camera", None, "is missing: there are no depths to teach")])
        return self.camera

    def _fused(self, maps: Mapping[str, Tensor | None]) -> Tensor:
        given = [map_ for map_ in maps.values() if map_ is not None]
        if self.fuser is None:
            return self.decoder(given[0])
        like = given[0]
        whole = [
            like.new_zeros(len(like), self.branches[name].bev_channels, *like.shape[2:]) if map_ is None else map_
            for name, map_ in maps.items()
        ]
        rates = [self.drop_rates[name] for name in maps]
        if self.training and any(rates):
            kept = keep_one_at_least(len(like), rates, like.device)
            whole = [torch.where(keep.view(-1, 1, 1, 1), map_, 0.0) for keep, map_ in zip(kept.T, whole, strict=True)]
        return self.decoder(self.fuser(whole))

    @classmethod
    def bare_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Without the weights that the branches start from, which the recorded ones replace."""
        out = dict(config)
        for name in READS:
            if config.get(name) is not None:
                branch = {key: value for key, value in config[name].items() if key != "init_from"}
                kind: Any = BACKBONES.get(str(branch.get("type")))
                out[name] = branch if kind is None else kind.bare_config(branch)
        return out

    def layer_count(self) -> int:
        """The groups of the deeper branch, then the fuser and what follows, then the head."""
        return max(branch.layer_count() for branch in self.branches.values()) + 1

    def layer_id(self, name: str) -> int:
        """Layer-decay group of a parameter; branches of different depths end together."""
        after = self.layer_count() - 2
        head, _, rest = name.partition(".")
        branch = self.branches.get(head)
        return after if branch is None else branch.layer_id(rest) + after + 1 - branch.layer_count()

    def describe(self) -> dict[str, str]:
        """What a dry run prints."""
        return {"fused map": f"{self.bev_channels} x {self.grid.ny} x {self.grid.nx} of {' and '.join(self.branches)}"}

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """Faults of a config (with defaults filled in) that would stop it from being built."""
        given = [name for name in READS if cfg[name] is not None]
        if not given:
            yield "lidar", "a fusion needs lidar, camera or both"
        for name in given:
            kind: Any = BACKBONES.get(str(cfg[name].get("type")))
            if kind is None or not issubclass(kind, BEVBackbone):
                yield name, f"needs the 'type' of a backbone with a bird's-eye view, not {cfg[name].get('type')!r}"
            if cfg["preprocess"] is not None and cfg[name].get("preprocess") is not None:
                yield name, "has a preprocess, and so has the fusion, whose record would hold for both: state one"
        if not isinstance(cfg["fused_channels"], int) or cfg["fused_channels"] < 1:
            yield "fused_channels", "must be a whole number of at least 1"
        for name in READS:
            key = f"drop_{name}"
            if not 0 <= cfg[key] < 1:
                yield key, "must lie in [0, 1)"
            elif cfg[key] and len(given) < 2:
                yield key, "needs both branches"
        if cfg["drop_lidar"] + cfg["drop_camera"] > 1:
            yield "drop_camera", "drop_lidar and drop_camera must not exceed 1 together: one sensor always stays"
        if cfg["decoder"] is not None:
            missing = [key for key in _DECODER if key not in cfg["decoder"]]
            unknown = [key for key in cfg["decoder"] if key not in _DECODER]
            if missing or unknown:
                yield "decoder", f"needs the keys {', '.join(_DECODER)}, and no other"


def _branch(name: str, config: Mapping[str, Any]) -> BEVBackbone:
    branch = BACKBONES.build(dict(config))
    record = branch.preprocess.record()
    if record.get("point_range" if name == "lidar" else "image_size") is None:
        text = f"its Preprocess record has no {READS[name]}, so it is not a {name} branch"
        raise ConfigError([Fault(f"model.backbone.{name}", config["type"], text)])
    return branch


def _common_grid(branches: Mapping[str, BEVBackbone]) -> BEVGrid:
    """The cells of all maps.

    Raises:
        ConfigError: they differ.
    """
    edges = [(*branch.grid.x, *branch.grid.y, *branch.grid.cell) for branch in branches.values()]
    if any(abs(a - b) > _SAME for other in edges[1:] for a, b in zip(edges[0], other, strict=True)):
        lines = [
            f"{name}: {b.grid.shape} cells of {b.grid.cell} m from ({b.grid.x[0]:g}, {b.grid.y[0]:g})"
            for name, b in branches.items()
        ]
        raise ConfigError(f"the branches of a fusion need maps with the same cells: {'; '.join(lines)}")
    return next(iter(branches.values())).grid


def _joined_record(branches: Mapping[str, BEVBackbone]) -> Preprocess:
    """What the LiDAR branch says of points and the camera branch of images."""
    records = {name: branch.preprocess.record() for name, branch in branches.items()}
    if len(records) == 1:
        return next(iter(branches.values())).preprocess
    camera = {key: records["camera"][key] for key in _CAMERA_FIELDS}
    return DrivingPreprocess(**{key: v for key, v in {**records["lidar"], **camera}.items() if key != "type"})

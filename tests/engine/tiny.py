"""A model, data set and config that train in seconds, for the tests of the engine."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import soundfile
import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor, nn

from perception.backbones.base import Backbone
from perception.datasets.base import Dataset
from perception.registry import BACKBONES, DATASETS, METRICS, MODELS, PREPROCESSES, TRANSFORMS
from perception.tasks.base import PerceptionModel
from perception.transforms.base import Transform
from perception.transforms.preprocess import Batch, Preprocess
from perception.transforms.randomness import SampleRandom


@PREPROCESSES.register_module(force=True)
@dataclass(frozen=True)
class TinyPreprocess(Preprocess):
    modality: ClassVar[str] = "vector"
    scale: float = 1.0

    def __call__(self, batch: Batch) -> Batch:
        return {**batch, "vector": batch["vector"] * self.scale}


@TRANSFORMS.register_module(force=True)
class TinyNoise(Transform):
    """Augmentation from the sample's own generator."""

    def __call__(self, batch: Batch, random: SampleRandom) -> Batch:
        noise = np.stack([random.uniform(-0.5, 0.5) for _ in range(batch["vector"].shape[1])], axis=1)
        return {**batch, "vector": batch["vector"] + torch.from_numpy(noise).float()}


@DATASETS.register_module(force=True)
class TinyVectors(Dataset):
    """Gaussian vectors; the label is the sign of their first entry."""

    modality = "vector"
    classes = ("minus", "plus")

    def __init__(self, size: int = 37, width: int = 6, nan_at: int | None = None, transforms: Any = (), seed: int = 0):
        super().__init__(transforms, seed)
        self.vectors = torch.from_numpy(np.random.default_rng(7).normal(size=(size, width)).astype(np.float32))
        if nan_at is not None:
            self.vectors[nan_at] = float("nan")

    def __len__(self) -> int:
        return len(self.vectors)

    def fetch(self, indices: np.ndarray) -> Batch:
        vectors = self.vectors[torch.from_numpy(indices)]
        return {"vector": vectors, "label": (vectors[:, 0] > 0).long(), "index": torch.from_numpy(indices)}


@BACKBONES.register_module(force=True)
class TinyBackbone(Backbone):
    """Three layers with dropout and, if asked for, batch norm."""

    modality = "vector"

    def __init__(self, width: int = 6, dropout: float = 0.3, norm: bool = False):
        super().__init__(TinyPreprocess())
        self.embed_dims = width
        self.pos_embed = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x + self.pos_embed[0]
        for block in self.blocks:
            x = self.dropout(torch.tanh(block(x)))
        return (self.norm(x),)

    def encode(self, batch: Batch, feature: str | None = None) -> Tensor:
        return self.forward(batch["vector"])[0]

    def layer_count(self) -> int:
        return 5

    def layer_id(self, name: str) -> int:
        return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else 0


@MODELS.register_module(force=True)
class TinyModel(PerceptionModel):
    """Classifies vectors, with noise from torch, numpy and python in the loss."""

    def __init__(
        self,
        dropout: float = 0.3,
        noise: float = 0.1,
        norm: bool = False,
        blow_up_at: int | None = None,
        ballast: int = 0,
    ):
        backbone = TinyBackbone(dropout=dropout, norm=norm)
        super().__init__(backbone.preprocess)
        self.backbone = backbone
        self.head = nn.Linear(6, 2)
        self.noise = noise
        self.blow_up_at = blow_up_at
        self.calls: list[tuple[int, int]] = []
        self.updates = 0
        self.register_buffer("ballast", torch.ones(ballast))  # makes saving slow enough to be hit by a kill

    def before_step(self, step: int, total_steps: int) -> None:
        self.calls.append((step, total_steps))

    def after_step(self) -> None:
        self.updates += 1

    def forward(self, batch: Batch, mode: str = "loss") -> dict[str, Tensor]:
        logits = self.head(self.backbone.encode(batch))
        if mode == "predict":
            return {"prediction": logits.argmax(1), "label": batch["label"]}
        loss = nn.functional.cross_entropy(logits, batch["label"])
        if self.noise:
            import random

            loss = loss * (1 + self.noise * float(np.random.rand()) + self.noise * random.random())
        if self.blow_up_at is not None and self.calls and self.calls[-1][0] == self.blow_up_at:
            # A finite value with an infinite slope: sqrt at 0.
            loss = loss + torch.sqrt((self.head.weight * 0).abs().sum())
        return {"loss_label": loss}

    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        torch.rand(3), np.random.rand(3)
        return {"tiny": np.full((8, 8, 3), 128, dtype=np.uint8)}


@METRICS.register_module(force=True)
class TinyAccuracy(BaseMetric):
    default_prefix = ""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append((data_samples["prediction"] == data_samples["label"]).tolist())

    def compute_metrics(self, results: list) -> dict:
        hits = [hit for batch in results for hit in batch]
        return {"accuracy": sum(hits) / len(hits), "count": len(hits)}


def tiny_config(epochs: int = 4, workers: int = 0, **changes: Any) -> dict[str, Any]:
    """Config of 4 epochs of 5 steps (37 samples in batches of 8)."""
    cfg: dict[str, Any] = dict(
        model=dict(type="TinyModel"),
        train_dataloader=dict(
            batch_size=8, num_workers=workers, dataset=dict(type="TinyVectors", transforms=[dict(type="TinyNoise")])
        ),
        train_cfg=dict(type="TrainLoop", max_epochs=epochs),
        optim_wrapper=dict(type="AutocastOptimWrapper", optimizer=dict(type="AdamW", lr=1e-2, weight_decay=0.05)),
        param_scheduler=dict(type="CosineWarmup", warmup_epochs=1),
        default_hooks=dict(
            pretext=dict(type="PretextHook"),
            guard=dict(type="NonFiniteGuard"),
            param_scheduler=dict(type="ParamSchedulerHook"),
            scalars=dict(type="ScalarsHook", interval=2),
            progress=dict(type="ProgressHook", seconds=1e9),
            checkpoint=dict(type="SafeCheckpointHook", every_steps=2, max_keep_ckpts=1),
            sigterm=dict(type="SigtermHook"),
        ),
        custom_hooks=[],
        experiment_name="tiny",
    )
    cfg.update(copy.deepcopy(changes))
    return cfg


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# RS-M-CLIP's objectives on the embedded tiles: captions in six languages, two sizes of views, teacher and centre.
DUAL_ENCODER = dict(
    config="remote_sensing/clip_tiny_land-cover",
    overrides=[
        "train_dataloader.dataset.count=40",
        "train_dataloader.batch_size=8",
        "train_dataloader.dataset.transforms.1.global_views=2",
        "train_dataloader.dataset.transforms.1.local_views=2",
        "train_dataloader.dataset.transforms.1.local_size=32",
        "train_dataloader.dataset.transforms.1.brightness=0.2",
        "model.pretexts.image_text.views=globals",
        "model.pretexts.distill={'type': 'SelfDistillation', 'prototypes': 32, 'hidden_dim': 16, 'bottleneck_dim': 8, "
        "'momentum': 0.9, 'warmup_epochs': 2}",
        # Patch dropout draws from torch's own generator.
        "model.backbone.model.vision_cfg={'image_size': 64, 'patch_size': 16, 'layers': 1, 'width': 32, "
        "'head_width': 16, 'patch_dropout': 0.25}",
        "evaluation={}",
    ],
)

# Regions, two views and contrast between points on a few beams of made-up streets: 5 steps an epoch.
DRIVING = dict(
    config="driving/prc_pillars_scenes",
    overrides=[
        "train_dataloader.dataset.count=20",
        "train_dataloader.dataset.beams=16",
        "train_dataloader.dataset.azimuths=128",
        "model.backbone.pillar_channels=(8,)",
        "model.backbone.channels=(8, 8, 8)",
        "model.backbone.neck_channels=(8, 8, 8)",
        "model.pretexts.prc.rich=32",
        "model.pretexts.prc.poor=32",
        "model.pretexts.prc.projection_dim=8",
        "evaluation={}",
    ],
    hooks=[dict(type="NormMomentum", momentum=0.1)],
    workers=0,
)
# A detector that reads both sensors and does without one of them at random, on turned sweeps and pictures.
FUSION = dict(
    config="driving/finetune_fusion_scenes",
    overrides=[
        *(f"{part}_dataloader.dataset.count={count}" for part, count in (("train", 20), ("val", 2), ("test", 2))),
        "train_dataloader.dataset.beams=16",
        "train_dataloader.dataset.azimuths=128",
        "model.width=8",
        "model.backbone.fused_channels=8",
        "model.backbone.drop_lidar=0.2",
        "model.backbone.drop_camera=0.2",
        "model.backbone.lidar.pillar_channels=(8,)",
        "model.backbone.lidar.channels=(8, 8, 8)",
        "model.backbone.lidar.neck_channels=(8, 8, 8)",
        "model.backbone.camera.image_backbone.widths=(8, 8, 8, 8)",
        "model.backbone.camera.neck_channels=8",
        "model.backbone.camera.context_channels=8",
        "model.backbone.camera.out_channels=8",
        "model.backbone.camera.drop_cameras=1",
    ],
    hooks=[dict(type="NormMomentum", momentum=0.1)],
    workers=0,
)

# Masked cubes of clips that are cut from files at random places, by a decoding process of every worker.
VIDEO = dict(
    config="video/videomae_vit-tiny_moving-digits",
    overrides=[
        "train_dataloader.batch_size=8",
        "model.backbone.embed_dim=32",
        "model.backbone.depth=1",
        # Running cells draw from torch's own generator, dropout and masks too.
        "model.backbone.drop_rate=0.1",
        "model.pretexts.video_mae.decoder_mask_ratio=0.5",
        "model.pretexts.video_mae.motion_weight=0.5",
        "evaluation={}",
    ],
)


def video_folder(root: Path, count: int = 40, frames: int = 12) -> dict[str, Any]:
    """Small films of noise and what makes ``VIDEO`` read them, flipped and cropped: 5 steps an epoch."""
    random = np.random.default_rng(0)
    root.mkdir(parents=True)
    for number in range(count):
        writer = cv2.VideoWriter(str(root / f"{number:02d}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (48, 32))
        for _ in range(frames):
            writer.write(random.integers(0, 255, (32, 48, 3), dtype=np.uint8))
        writer.release()
    transforms = [dict(type="ClipResizedCrop", size=32), dict(type="RandomFlip")]
    data = dict(type="VideoFolder", root=str(root), frames=8, stride=1, transforms=transforms)
    return {**VIDEO, "overrides": [*VIDEO["overrides"], f"train_dataloader.dataset={data}"]}


# Hidden spans of clips that are joined from files of one speaker, faster and slower: quantiser, masks, dropout and
# dropped layers draw from torch's own generator.
SPEECH = dict(
    config="speech/wav2vec2_tiny_varieties",
    overrides=[
        "train_dataloader.batch_size=8",
        "model.backbone.embed_dim=16",
        "model.backbone.num_heads=2",
        "model.backbone.ffn_dim=16",
        "model.backbone.conv_dim=16",
        "model.backbone.pos_kernel=8",
        "model.backbone.drop_rate=0.1",
        "model.backbone.layer_drop=0.2",
        "model.pretexts.wav2vec2.feature_drop=0.1",
        "model.pretexts.wav2vec2.penalty_weight=1.0",
        "evaluation={}",
    ],
)


def speech_folder(root: Path, count: int = 40) -> dict[str, Any]:
    """Recordings of noise by four speakers and what makes ``SPEECH`` read them: 5 steps an epoch."""
    random = np.random.default_rng(0)
    root.mkdir(parents=True)
    lines = ["path,label,speaker,split"]
    for number in range(count):
        soundfile.write(root / f"{number}.wav", random.uniform(-0.5, 0.5, 3000 + 50 * number), 16000)
        lines.append(f"{number}.wav,word,s{number % 4},train")
    (root / "table.csv").write_text("\n".join(lines))
    data = dict(type="SpeechTable", table=str(root / "table.csv"), split="pretrain", sample_rate=8000)
    data.update(join_seconds=0.5, transforms=[dict(type="SpeechSpeed"), dict(type="SpeechNoise")])
    return {**SPEECH, "overrides": [*SPEECH["overrides"], f"train_dataloader.dataset={data}"]}

"""Settings of published camera branches."""

from __future__ import annotations

from typing import Any

_SWIN = {
    "type": "TimmModel",
    "name": "swin_tiny_patch4_window7_224",
    "out_indices": [1, 2, 3],
    "window_size": 7,
}
_COMMON: dict[str, Any] = {
    "z_slices": 1,
    "neck": "concat",
    "neck_kernel": 1,
    "exact_centres": False,
    "compat": "floor",
    "drop_cameras": 0,
}
_BEVFUSION: dict[str, Any] = {
    **_COMMON,
    "image_backbone": {**_SWIN, "drop_path_rate": 0.2},
    "image_size": (256, 704),
    "point_range": (-51.2, -51.2, -10.0, 51.2, 51.2, 10.0),
    "cell": (0.4, 0.4),
    "depth": (1.0, 60.0, 0.5),
    "context_channels": 80,
    "neck_channels": 256,
    "encoder": "downsample",
    "out_channels": 80,
}
_BEVDET: dict[str, Any] = {
    **_COMMON,
    "image_backbone": {**_SWIN, "out_indices": [2, 3]},
    "image_size": (256, 704),
    "point_range": (-51.2, -51.2, -10.0, 51.2, 51.2, 10.0),
    "cell": (0.8, 0.8),
    "depth": (1.0, 60.0, 1.0),
    "context_channels": 64,
    "neck_kernel": 3,
    "neck_channels": 256,
    "encoder": "bevdet",
    "out_channels": 256,
}
PRESETS: dict[str, dict[str, Any]] = {
    # "Lift, Splat, Shoot" (Philion and Fidler, 2020): five of six cameras in training.
    "lss": {
        **_COMMON,
        "image_backbone": {"type": "TimmModel", "name": "efficientnet_b0", "out_indices": [3, 4]},
        "image_size": (128, 352),
        "point_range": (-50.0, -50.0, -10.0, 50.0, 50.0, 10.0),
        "cell": (0.5, 0.5),
        "depth": (4.0, 45.0, 1.0),
        "context_channels": 64,
        "neck_kernel": 3,
        "neck_channels": 512,
        "encoder": "lss",
        "out_channels": 128,
        "drop_cameras": 1,
    },
    # "BEVFusion" (Liu et al., 2023): camera and LiDAR, cameras alone, map segmentation.
    "bevfusion-det": {
        **_BEVFUSION,
        "point_range": (-54.0, -54.0, -10.0, 54.0, 54.0, 10.0),
        "cell": (0.3, 0.3),
    },
    "bevfusion-camera-det": _BEVFUSION,
    "bevfusion-seg": {**_BEVFUSION, "image_backbone": {**_SWIN, "drop_path_rate": 0.3}},
    # "BEVDet" (Huang et al., 2021).
    "bevdet-tiny": _BEVDET,
    "bevdet-r50": {
        **_BEVDET,
        "image_backbone": {"type": "TimmModel", "name": "resnet50", "out_indices": [3, 4]},
        "neck": "add",
    },
}

"""The small TIP on the embedded noisy digits with ten noisy measurements, narrower still."""

from mmengine.config import read_base

with read_base():
    from .tip_small import *

_image = dict(size=8, bands=("grey",), mean=(0.3718,), std=(0.3710,))
model["backbone"].update(
    image_backbone=dict(
        type="ConvNet",
        widths=(32, 64, 128),
        strides=(1, 2, 2),  # 4 tokens of 128
        in_channels=1,
        preprocess=dict(type="ImagePreprocess", **_image),
    ),
    table_backbone=dict(type="TableTransformer", embed_dim=48, depth=1, num_heads=2, mlp_ratio=2.0, init_std=0.1),
    depth=1,
    num_heads=2,
    mlp_ratio=2.0,
    preprocess=dict(type="TableImagePreprocess", **_image, fit=dict(type="DigitsTable", split="train")),
)
train_dataloader.update(batch_size=64)
train_dataloader["dataset"].update(
    type="DigitsTable",
    transforms=[dict(type="RandomCropPad", padding=1), dict(type="CorruptTable", rate=0.3)],
)

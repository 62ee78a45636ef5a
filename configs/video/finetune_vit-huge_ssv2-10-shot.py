"""Fine-tune the ViT-H of spatiotemporal-mae_vit-huge_headcam on 10 labelled clips a class of Something-Something V2.

The paper's logs: 9.4 % top-1 from one child's videos, 10.5 % from Kinetics-700, 1.1 % from scratch; best epoch, chosen
on the same validation set, one random clip a video. Here the clip is the middle one and the crop the centre.
data/ssv2/train_10shot.csv lists ``path, label``. Global batch 16 = 4 GPUs x 4; the number of epochs is ours, the rest
the card's; not run here. Start it with --set model.backbone.init_from=RUN.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

_statistics = dict(mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))

model = dict(
    type="Classifier",
    backbone=dict(
        type="VideoViT",
        image_size=224,
        frames=16,
        patch_size=14,
        tubelet=2,
        embed_dim=1280,
        depth=32,
        num_heads=16,
        qkv_bias=True,
        class_token=True,
        position="separable",
        drop_path_rate=0.1,
        preprocess=dict(type="VideoPreprocess", size=(224, 224), frames=16, stride=8, fps=30.0, **_statistics),
    ),
    num_classes=174,
    feature="gap",
    dropout=0.3,
    label_smoothing=0.1,
)

train_dataloader = dict(
    batch_size=4,
    num_workers=10,
    drop_last=True,
    dataset=dict(
        type="VideoManifest",
        path="data/ssv2/train_10shot.csv",
        frames=16,
        stride=8,
        sampling="random",
        transforms=[
            dict(type="ClipResizedCrop", size=224, scale=(0.08, 1.0)),
            dict(type="RandomErasing", probability=0.25),
        ],
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=10,
    dataset=dict(
        type="SomethingSomethingV2",
        split="val",
        root="data/ssv2",
        frames=16,
        stride=8,
        sampling="dense_views",
        size=224,
    ),
)
val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator

train_cfg = dict(type="TrainLoop", max_epochs=100)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    constructor="LayerDecay",
    paramwise_cfg=dict(decay=0.8),
    clip_grad=dict(max_norm=5.0),
    optimizer=dict(type="AdamW", lr=2.4e-3 * 16 / 256, betas=(0.9, 0.999), weight_decay=0.05),
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=5, min_lr=1e-6)

"""Video branch of surgical feedback (ML4H 2024): a head of 512-256 on VideoMAE's ViT-B, 10 epochs on one GPU.

Text + video reach an AUROC of 0.70 +- 0.02 in the paper; video alone is not told there, and its data are private: not
run here. Start from a run of video/videomae-ssl_vit-base_surgical-feedback with --set model.backbone.init_from=RUN.
The encoder is frozen as in the paper's code; model.freeze_encoder=False tunes it, as its text says. Folds keep
operations together: --set train_dataloader.dataset.fold=1 val_dataloader.dataset.fold=1 test_dataloader.dataset.fold=1.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.surgical_feedback import *

model = dict(
    type="FusionClassifier",
    backbone=dict(
        type="VideoViT",
        image_size=224,
        frames=16,
        patch_size=16,
        tubelet=2,
        embed_dim=768,
        depth=12,
        num_heads=12,
        preprocess=_preprocess,
    ),
    branches=dict(video=[512, 256]),
    joint=[],
    feature="gap",  # mean over the encoder's output
    freeze_encoder=True,
)
custom_hooks = [dict(type="TrainPlateau", monitor="accuracy", patience=2, factor=0.5)]

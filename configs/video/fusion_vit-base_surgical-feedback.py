"""Fusion of surgical feedback (ML4H 2024) on stored video features: 0.70 +- 0.02 AUROC in the paper, minutes on a CPU.

perception embed RUN --data "dict(type='VideoTable', ...)" --out data/surgical_feedback/video.npz --feature gap
writes the features, with RUN a run of video/finetune_vit-base_surgical-feedback or
video/videomae-ssl_vit-base_surgical-feedback and the data set of these configs without its split. Video 768-256-128 and
text 384-128-64 are joined and go through 256-128; 20 epochs. The paper's data are private: not run here. Its choice of
an epoch by test results is left out.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.surgical_feedback import *

model = dict(
    type="FusionClassifier",
    backbone=None,
    branches=dict(video=[256, 128], text=[128, 64]),
    joint=[256, 128],
    stored=dict(video=768),
    text_encoder=dict(type="HashingTfidf", dim=384),  # or LanguageModel, see text_hashing-tfidf_surgical-feedback
    null_vectors=True,  # for remarks without a transcript
)
for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader.update(num_workers=0)
    _loader["dataset"].update(video=False, features=dict(video="data/surgical_feedback/video.npz"))
train_cfg.update(max_epochs=20)
optim_wrapper["optimizer"].update(lr=1e-3)

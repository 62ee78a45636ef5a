"""VideoMAE (NeurIPS 2022) on embedded clips: a digit crosses a drifting texture, and the label is where it goes.

No download, six minutes of one CPU core. Three seeds give 77.0 +- 1.5 % linear and 66.8 +- 4.4 % kNN; the untrained
encoder gives 56.8 and 55.4 %, static pixels 25.8 and 31.2 %, chance is 25 %. The second half of a clip is predicted
from the first: filling in tubes of 0.75, as the paper does, gave 63.0 % linear after 60 epochs. Pixels themselves are
the targets: short runs with the paper's normalised cubes fall below the untrained encoder. Mask and texture were chosen
on the validation split.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.video_tiny import *

_clips = dict(type="MovingDigits", task="direction", texture=40.0)

model = dict(
    type="Pretrainer",
    backbone=_encoder,
    pretexts=dict(
        video_mae=dict(_masks, mask="temporal", mask_ratio=0.5),  # from the first half of a clip the second
    ),
)

train_dataloader = dict(batch_size=64, num_workers=0, dataset=dict(**_clips, split="pretrain"))
train_cfg = dict(type="TrainLoop", max_epochs=40)
optim_wrapper = _optimiser
param_scheduler = dict(type="CosineWarmup", warmup_epochs=2, min_lr=0.0, by_step=True)

evaluation = dict(
    train=dict(**_clips, split="train"),
    val=dict(**_clips, split="val"),
    test=dict(**_clips, split="test"),
    protocols=dict(linear=dict(type="LinearLBFGS"), knn=dict(type="KNN", k=20, temperature=0.07)),
)

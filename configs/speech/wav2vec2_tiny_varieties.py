"""wav2vec 2.0 (NeurIPS 2020) on embedded words: the demo of speech, no download, 45 seconds of a CPU core.

The probe asks which of eight words a speaker says who was never heard. Seed 0 gives 78.8 %, the untrained encoder 64.8,
mean and deviation of log-mel 61.3; eight segments of log-mel are better than all of them, with 86.9. Varieties are no
task for so short a training: with 160 steps on 1.5 s the encoder tells them like an untrained one, 34.1 against 32.8 %.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.speech_varieties import *
    from .._base_.wav2vec2_tiny import *

model["backbone"].update(conv_dim=48)
model["pretexts"]["wav2vec2"].update(gumbel_decay=0.99)
train_dataloader["batch_size"] = 8
train_dataloader["dataset"].update(crop_seconds=None, join_seconds=1.2)
optim_wrapper["optimizer"].update(lr=3e-3)
param_scheduler = dict(type="CosineWarmup", warmup_steps=15, min_lr=0.0, by_step=True)
train_cfg = dict(type="TrainLoop", max_epochs=1)  # 320 steps

evaluation["feature"] = "segments"  # words are an order of sounds
evaluation["train"].update(label="word", speakers=40)
evaluation["val"].update(label="word")
evaluation["test"].update(label="word", speakers=40)
demo = dict(title="speech", protocol="linear")

"""Digits of a speaker that was never heard, with five others to train on: a small encoder of 8 kHz waveforms.

Logistic regression on eight segments of log-mel reaches 0.617 on average over the six speakers, by speaker 0.19, 0.80,
0.48, 0.53, 0.85 and 0.85. Batches hold 10 digits x 5 clips, each of another speaker.
"""

from mmengine.config import read_base

with read_base():
    from .runtime import *
    from .speech_tiny import _encoder, _optimiser, _rate

_unseen = "lucas"
_backbone = dict(_encoder, pos_groups=4, drop_rate=0.1)
train_dataloader = dict(
    batch_size=50,
    num_workers=0,
    sampler=dict(type="PKSampler", classes=10, samples=5, groups="speakers"),
    dataset=dict(
        type="FSDD",
        split="train",
        held_out_speaker=_unseen,
        sample_rate=_rate,
        crop_seconds=1.0,
        transforms=[
            dict(type="SpeechSpeed", factors=(0.8, 0.9, 1.0, 1.1, 1.2)),  # moves formants: other throats
            dict(type="SpeechChannel"),  # other microphones
            dict(type="SpeechMask"),
            dict(type="SpeechGain"),
            dict(type="SpeechNoise"),
        ],
    ),
)
optim_wrapper = _optimiser
param_scheduler = dict(type="CosineWarmup", warmup_epochs=3, min_lr=0.0, by_step=True)

"""wav2vec 2.0 (NeurIPS 2020) on embedded words: the demo of speech, no download, 45 seconds of a CPU core.

The probe asks which of eight words a speaker says who was never heard. Seed 0 gives 78.8 %, the untrained encoder 64.8,
mean and deviation of log-mel 61.3; eight segments of log-mel are better than all of them, with 86.9. Varieties are no
task for so short a training: with 160 steps on 1.5 s the encoder tells them like an untrained one, 34.1 against 32.8 %.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.speech_varieties import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="SpeechEncoder",
        preset=None,
        embed_dim=96,
        depth=2,
        num_heads=4,
        ffn_dim=192,
        norm="layer",
        conv_gradient=1.0,
        conv_dim=48,
        conv_kernels=(10, 3, 3, 3, 3, 2),
        conv_strides=(5, 2, 2, 2, 2, 2),  # 160: 20 ms at 8 kHz
        pos_kernel=16,
        pos_groups=8,
        preprocess=dict(type="SpeechPreprocess", sample_rate=_rate, normalize="utterance"),
    ),
    pretexts=dict(
        wav2vec2=dict(
            type="Wav2Vec2",
            mask_length=4,
            mask_variant="transformers",
            entries=32,
            code_dim=64,
            project_dim=64,
            negatives=20,
            gumbel_decay=0.99,
            penalty_weight=0.0,
            feature_drop=0.0,
        )
    ),
)
train_dataloader["batch_size"] = 8
train_dataloader["dataset"].update(crop_seconds=None, join_seconds=1.2)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="float32",
    clip_grad=1.0,
    constructor="LayerDecay",  # no decay of biases and norms
    optimizer=dict(type="AdamW", lr=3e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01),
)
param_scheduler = dict(type="CosineWarmup", warmup_steps=15, min_lr=0.0, by_step=True)
train_cfg = dict(type="TrainLoop", max_epochs=1)  # 320 steps

evaluation["feature"] = "segments"  # words are an order of sounds
evaluation["train"].update(label="word", speakers=40)
evaluation["val"].update(label="word")
evaluation["test"].update(label="word", speakers=40)
demo = dict(title="speech", protocol="linear")

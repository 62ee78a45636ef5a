"""Which region speech is from ("Speech Analysis of Language Varieties in Italy", LREC-COLING 2024), XLS-R 300M.

data/regions/table.csv: path, label (region), speaker (city) and neighbours, if known; nobody speaks in two splits. The
paper has 17 regions of VIVALDI, which may not be passed on, and tells none of the values below: they are ours. The
encoder starts from the public weights, by name from the hub; model.backbone.pretrained=FOLDER takes them from a disk.
"""

from mmengine.config import read_base

with read_base():
    from .runtime import *

_clips = dict(type="SpeechTable", table="data/regions/table.csv", sample_rate=16000)
_regions = 17
_encoder = dict(
    type="SpeechEncoder",
    preset="xls-r-300m",
    pretrained="facebook/wav2vec2-xls-r-300m",
    freeze_convs=True,
    preprocess=dict(type="SpeechPreprocess", sample_rate=16000, normalize="utterance"),
)
train_dataloader = dict(
    batch_size=32,
    num_workers=6,
    sampler=dict(type="PKSampler", classes=8, samples=4, groups="speakers"),
    dataset=dict(
        **_clips,
        split="train",
        crop_seconds=10.0,
        # With a speaker a city, room and microphone give the region away.
        transforms=[
            dict(type="SpeechSpeed"),
            dict(type="SpeechChannel"),
            dict(type="SpeechGain"),
            dict(type="SpeechNoise", probability=0.5),
        ],
    ),
)
train_cfg = dict(type="TrainLoop", max_epochs=20, val_interval=1)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    clip_grad=1.0,
    constructor="LayerDecay",  # no decay of biases and norms
    paramwise_cfg=dict(backbone_scale=0.01),  # heads 1e-3, the encoder 1e-5
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.01),
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=1, min_lr=0.0, by_step=True)

"""wav2vec 2.0 pre-training (NeurIPS 2020) of 16 kHz speech: what BASE and LARGE share; sizes and rates are the child's.

A table of own recordings stands for LibriSpeech and Libri-Light, which have no reader here: a csv file with the columns
path, label, speaker and split, where split is train in every row, and label is anything, such as the speaker again.
Headers of all files are read at the start, and clips below two seconds are errors, so leave them out of the table.
"""

from mmengine.config import read_base

with read_base():
    from .runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(type="SpeechEncoder"),
    pretexts=dict(
        wav2vec2=dict(
            type="Wav2Vec2",
            mask_probability=0.65,  # about half of the frames
            mask_length=10,
            groups=2,
            entries=320,
            negatives=100,
            temperature=0.1,
            gumbel_start=2.0,
            gumbel_decay=0.999995,
            diversity_weight=0.1,
        )
    ),
)
train_dataloader = dict(
    num_workers=6,
    drop_last=True,
    dataset=dict(type="SpeechTable", split="pretrain", sample_rate=16000, min_seconds=2.0),
)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",  # the paper's code: float16 with loss scaling
    optimizer=dict(type="AdamW", betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01),
)
param_scheduler = dict(type="LinearDecay", warmup_steps=32_000)  # polynomial of power 1, to 0

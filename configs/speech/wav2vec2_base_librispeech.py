"""wav2vec 2.0 BASE (NeurIPS 2020) on 960 hours of LibriSpeech, 400,000 updates of 1.6 hours of speech.

The paper judges it by word error rates of recognisers, which are not part of this library; here its encoder starts
classifiers. 64 GPUs x 8 clips; the paper has 64 V100 for 1.6 days and at most 1.4 million samples a GPU. Not run here.
One GPU comes to the same update with optim_wrapper.accumulative_counts=64 and 64 times the max_iters, in months.
torchrun --nnodes=8 --nproc_per_node=8 -m perception train speech/wav2vec2_base_librispeech --launcher pytorch
"""

from mmengine.config import read_base

with read_base():
    from .._base_.wav2vec2_pretrain import *

model["backbone"].update(
    preset="base",
    drop_rate=0.1,
    layer_drop=0.05,
    preprocess=dict(type="SpeechPreprocess", sample_rate=16000, normalize="none"),
)
model["pretexts"]["wav2vec2"].update(
    code_dim=256,
    project_dim=256,
    gumbel_floor=0.5,
    penalty_weight=10.0,
    feature_drop=0.1,
)
train_dataloader["batch_size"] = 8
train_dataloader["dataset"].update(
    table="data/librispeech/train-960.csv",
    crop_seconds=15.625,  # 250,000 samples
)
train_cfg = dict(type="TrainLoop", max_iters=400_000)
optim_wrapper["optimizer"].update(lr=5e-4)

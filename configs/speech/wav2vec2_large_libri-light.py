"""wav2vec 2.0 LARGE (NeurIPS 2020) on 60,000 hours of Libri-Light: 1.8 / 3.3 % word errors on LibriSpeech in the paper.

That is with a recogniser on all labels, which is not part of this library; here its encoder starts classifiers. The
rate is the paper's 3e-4; the public config says 5e-3. Updates and warm-up are that config's. 128 GPUs x 4 clips; the
paper has 128 V100 for 5.2 days and at most 1.2 million samples a GPU. Not run here.
torchrun --nnodes=16 --nproc_per_node=8 -m perception train speech/wav2vec2_large_libri-light --launcher pytorch
"""

from mmengine.config import read_base

with read_base():
    from .._base_.wav2vec2_pretrain import *

model["backbone"].update(
    preset="large",
    preprocess=dict(type="SpeechPreprocess", sample_rate=16000, normalize="utterance"),
)
model["pretexts"]["wav2vec2"].update(
    code_dim=768,
    project_dim=768,
    gumbel_floor=0.1,
    penalty_weight=0.0,
    feature_drop=0.0,
)
train_dataloader["batch_size"] = 4
train_dataloader["dataset"].update(
    table="data/libri-light/train.csv",
    crop_seconds=20.0,  # 320,000 samples
)
train_cfg = dict(type="TrainLoop", max_iters=1_000_000)
optim_wrapper["optimizer"].update(lr=3e-4)

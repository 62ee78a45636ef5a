"""Tell four varieties of a made-up language, by speakers who were never heard before (embedded, no download).

perception train speech/finetune_wav2vec2-tiny_varieties --set model.backbone.init_from=RUN
starts from a run of speech/wav2vec2_tiny_varieties, without init_from from scratch. Batches hold 4 varieties x 12
words, each of another speaker. With model.type=ContrastiveClassifier varieties are contrasted, too. A minute of a CPU
core; from that run seed 0 gives 56.8 %, log-mel in eight segments 64 without training, chance is 25.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *
    from .._base_.speech_tiny import _encoder, _optimiser, _rate

_words = dict(type="SpokenVarieties", label="variety", sample_rate=_rate)

model = dict(
    type="Classifier",
    backbone=dict(_encoder, conv_dim=48, drop_rate=0.1),
    num_classes=4,
    feature="segments",  # which vowel is where
)
train_dataloader = dict(
    batch_size=48,
    num_workers=0,
    sampler=dict(type="PKSampler", classes=4, samples=12, groups="speakers"),
    dataset=dict(
        **_words,
        split="train",
        transforms=[dict(type="SpeechSpeed", factors=(0.9, 1.0, 1.1)), dict(type="SpeechGain")],
    ),
)
val_dataloader = dict(batch_size=64, dataset=dict(**_words, split="val"))
test_dataloader = dict(batch_size=64, dataset=dict(**_words, split="test"))
val_evaluator = dict(type="MacroF1")
test_evaluator = [dict(type="Accuracy"), dict(type="MacroF1")]

train_cfg = dict(type="TrainLoop", max_epochs=8, val_interval=4)
optim_wrapper = _optimiser
param_scheduler = dict(type="CosineWarmup", warmup_epochs=1, min_lr=0.0, by_step=True)

"""Text branch of surgical feedback (ML4H 2024): a head of 256-128 on transcripts alone, 10 epochs, seconds on a CPU.

Hashed words of the width of the paper's sentence encoder, which needs no download; the encoder itself is
--set "model.text_encoder=dict(type='LanguageModel', name='sentence-transformers/paraphrase-MiniLM-L6-v2')".
The paper's data are private: not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.surgical_feedback import *

model = dict(
    type="FusionClassifier",
    backbone=None,
    branches=dict(text=[256, 128]),
    joint=[],
    text_encoder=dict(type="HashingTfidf", dim=384),
    null_vectors=True,  # for remarks without a transcript
)
for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader.update(num_workers=0)
    _loader["dataset"].update(video=False)
optim_wrapper["optimizer"].update(lr=5e-4)

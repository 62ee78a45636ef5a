"""Cross-entropy with SupCon (NeurIPS 2020) beside it on the digits (embedded): compare image/finetune_vit-tiny_digits.

model.weight=0 is that config to the last bit. Under a minute on two CPU cores.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.digits_classifier import *

model.update(
    type="ContrastiveClassifier",
    weight=0.5,
    loss="supcon",
    options=dict(temperature=0.1),
    projection_dim=32,
)

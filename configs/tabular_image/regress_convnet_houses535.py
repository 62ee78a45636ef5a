"""Fine-tune the encoder of tip_convnet_houses535 to tell the price of a house: squared error of its logarithm."""

from mmengine.config import read_base

with read_base():
    from .finetune_convnet_houses535 import *

model = dict(
    type="Regressor",
    backbone=model["backbone"],
    loss="mse",
    log=True,
    mean=12.9653,  # of the logarithms of the training prices
    std=0.8637,
)
train_dataloader["dataset"].update(label="price")
val_dataloader["dataset"].update(label="price")
test_dataloader["dataset"].update(label="price")
val_evaluator = dict(type="RegressionError")
test_evaluator = val_evaluator

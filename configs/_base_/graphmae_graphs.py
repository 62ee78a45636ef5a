"""GraphMAE (KDD 2022) on sets of small graphs: what the paper keeps for all; sizes, rates and data are the child's."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="GIN",
        in_drop=0.2,
        activation="prelu",
        norm="batchnorm",
        level="graph",
        preprocess=dict(type="GraphPreprocess", scaling="none", self_loops=True),
    ),
    pretexts=dict(
        graphmae=dict(type="GraphMAE", loss="sce", decoder="gin", decoder_norm="batchnorm", decoder_activation="prelu")
    ),
)

train_dataloader = dict(num_workers=0)
train_cfg = dict(type="TrainLoop")
# The rate is constant unless the child adds a schedule.
optim_wrapper = dict(type="AutocastOptimWrapper", dtype="float32", optimizer=dict(type="Adam", weight_decay=0.0))

evaluation = dict(protocols=dict(svm=dict(type="SVMCrossValidation", folds=10)), batch_size=256)

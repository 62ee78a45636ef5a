"""GraphMAE (KDD 2022) on PROTEINS with the paper's configuration: 75.30 +- 0.39 % there (5 seeds).

One CPU core: some ten minutes a seed. Evaluation: RBF-SVM in 10 stratified folds.
Features are the tags: the collection also has an attribute, which the reference leaves out.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="GIN",
        in_dim=3,
        num_hidden=512,
        num_layers=3,
        in_drop=0.2,
        activation="prelu",
        norm="batchnorm",
        level="graph",
        pooling="max",
        preprocess=dict(type="GraphPreprocess", scaling="none", self_loops=True),
    ),
    pretexts=dict(
        graphmae=dict(
            type="GraphMAE",
            mask_ratio=0.5,
            replace_rate=0.0,
            loss="sce",
            alpha=1,
            decoder="gin",
            decoder_norm="batchnorm",
            decoder_activation="prelu",
        )
    ),
)

train_dataloader = dict(batch_size=32, num_workers=0, dataset=dict(type="TUDataset", name="PROTEINS", features="tags"))
train_cfg = dict(type="TrainLoop", max_epochs=100)
optim_wrapper = dict(
    type="AutocastOptimWrapper", dtype="float32", optimizer=dict(type="Adam", lr=0.00015, weight_decay=0.0)
)

evaluation = dict(
    all=dict(type="TUDataset", name="PROTEINS", features="tags"),
    protocols=dict(svm=dict(type="SVMCrossValidation", folds=10)),
    batch_size=256,
)

"""GraphMAE (KDD 2022) on REDDIT-BINARY with the paper's configuration: 88.01 +- 0.19 % there (5 seeds).

Downloads through torch_geometric. One GPU. Evaluation: RBF-SVM in 10 stratified folds.
Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="GIN",
        in_dim=401,
        num_hidden=512,
        num_layers=2,
        in_drop=0.2,
        activation="prelu",
        norm="layernorm",
        level="graph",
        pooling="sum",
        preprocess=dict(type="GraphPreprocess", scaling="none", self_loops=True),
    ),
    pretexts=dict(
        graphmae=dict(
            type="GraphMAE",
            mask_ratio=0.75,
            replace_rate=0.1,
            loss="sce",
            alpha=2,
            decoder="gin",
            decoder_norm="layernorm",
            decoder_activation="prelu",
        )
    ),
)

train_dataloader = dict(batch_size=8, num_workers=0, dataset=dict(type="TUDataset", name="REDDIT-BINARY"))
train_cfg = dict(type="TrainLoop", max_epochs=100)
optim_wrapper = dict(
    type="AutocastOptimWrapper", dtype="float32", optimizer=dict(type="Adam", lr=0.00015, weight_decay=0.0)
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=0, min_lr=0.0, by_step=False)

evaluation = dict(
    all=dict(type="TUDataset", name="REDDIT-BINARY"),
    protocols=dict(svm=dict(type="SVMCrossValidation", folds=10)),
    batch_size=256,
)

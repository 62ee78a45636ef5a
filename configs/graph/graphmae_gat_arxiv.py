"""GraphMAE (KDD 2022) on ogbn-arxiv with the paper's configuration: 71.75 +- 0.17 % there.

Needs `pip install ogb` and a download; one GPU of 24 GB or more, about an hour. Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="GAT",
        in_dim=128,
        num_hidden=1024,  # all heads together
        num_layers=3,
        num_heads=4,
        in_drop=0.2,
        attn_drop=0.1,
        activation="prelu",
        norm="layernorm",
        residual=False,
        level="node",
        preprocess=dict(type="GraphPreprocess", scaling="zscore", self_loops=True),
    ),
    pretexts=dict(
        graphmae=dict(
            type="GraphMAE",
            mask_ratio=0.5,
            replace_rate=0.0,
            drop_edge_rate=0.5,
            loss="sce",
            alpha=3,
            decoder="gat",
        )
    ),
)

train_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(type="OGBNodes", name="ogbn-arxiv", split="all"))
train_cfg = dict(type="TrainLoop", max_epochs=1000)  # one step an epoch: the whole graph
optim_wrapper = dict(
    type="AutocastOptimWrapper", dtype="float32", optimizer=dict(type="Adam", lr=0.001, weight_decay=0.0)
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=0, min_lr=0.0, by_step=False)

evaluation = dict(
    train=dict(type="OGBNodes", name="ogbn-arxiv", split="train"),
    val=dict(type="OGBNodes", name="ogbn-arxiv", split="val"),
    test=dict(type="OGBNodes", name="ogbn-arxiv", split="test"),
    protocols=dict(
        linear=dict(type="LinearAdam", lr=0.01, weight_decay=0.0005, epochs=600),
    ),
)

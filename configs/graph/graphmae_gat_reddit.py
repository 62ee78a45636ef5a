"""GraphMAE (KDD 2022) on Reddit with the paper's configuration: 96.01 +- 0.08 % there.

Inductive: pre-trains on the subgraph of the training nodes; features standardised with statistics of the graph at
hand. Downloads through torch_geometric; one GPU of 80 GB, hours. Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="GAT",
        in_dim=602,
        num_hidden=512,  # all heads together
        num_layers=4,
        num_heads=2,
        in_drop=0.2,
        attn_drop=0.1,
        activation="prelu",
        norm="layernorm",
        residual=True,
        level="node",
        preprocess=dict(type="GraphPreprocess", scaling="zscore", self_loops=True),
    ),
    pretexts=dict(
        graphmae=dict(
            type="GraphMAE",
            mask_ratio=0.75,
            replace_rate=0.15,
            drop_edge_rate=0.5,
            loss="sce",
            alpha=3,
            decoder="gat",
        )
    ),
)

train_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(type="Reddit", induced=True, split="all"))
train_cfg = dict(type="TrainLoop", max_epochs=500)  # one step an epoch: the whole graph
optim_wrapper = dict(
    type="AutocastOptimWrapper", dtype="float32", optimizer=dict(type="Adam", lr=0.001, weight_decay=0.0002)
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=0, min_lr=0.0, by_step=False)

evaluation = dict(
    train=dict(type="Reddit", split="train"),
    val=dict(type="Reddit", split="val"),
    test=dict(type="Reddit", split="test"),
    protocols=dict(
        linear=dict(type="LinearAdam", lr=0.005, weight_decay=0.0, epochs=500),
    ),
)

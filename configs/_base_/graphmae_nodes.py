"""GraphMAE (KDD 2022) on one large graph: what the paper keeps for all; sizes, rates and data are the child's."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="GAT",  # the child adds in_dim, num_layers, num_heads and num_hidden, the width of all heads together
        in_drop=0.2,
        attn_drop=0.1,
        activation="prelu",
        norm=None,
        residual=False,
        level="node",
        preprocess=dict(type="GraphPreprocess", scaling="none", self_loops=True),
    ),
    pretexts=dict(graphmae=dict(type="GraphMAE", drop_edge_rate=0.0, loss="sce", decoder="gat")),
)

train_dataloader = dict(batch_size=1, num_workers=0)  # one step an epoch: the whole graph
train_cfg = dict(type="TrainLoop")
optim_wrapper = dict(type="AutocastOptimWrapper", dtype="float32", optimizer=dict(type="Adam"))
param_scheduler = dict(type="CosineWarmup", warmup_epochs=0, min_lr=0.0, by_step=False)

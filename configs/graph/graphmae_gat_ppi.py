"""GraphMAE (KDD 2022) on PPI with the paper's configuration: 74.50 +- 0.29 % micro-F1 there.

Inductive, 20 training graphs; downloads through torch_geometric; one GPU. The multi-label probe of the paper (BCE,
micro-F1) is not part of this library yet, so the run ends with the pre-trained encoder. Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="GAT",
        in_dim=50,
        num_hidden=1024,  # all heads together
        num_layers=3,
        num_heads=4,
        in_drop=0.2,
        attn_drop=0.1,
        activation="prelu",
        norm="layernorm",
        residual=True,
        level="node",
        preprocess=dict(type="GraphPreprocess", scaling="none", self_loops=True),
    ),
    pretexts=dict(
        graphmae=dict(
            type="GraphMAE",
            mask_ratio=0.5,
            replace_rate=0.1,
            drop_edge_rate=0.0,
            loss="sce",
            alpha=3,
            decoder="gat",
        )
    ),
)

train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(type="PPI", split="train"))
train_cfg = dict(type="TrainLoop", max_epochs=1000)  # 10 steps an epoch
optim_wrapper = dict(
    type="AutocastOptimWrapper", dtype="float32", optimizer=dict(type="Adam", lr=0.0001, weight_decay=0.0)
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=0, min_lr=0.0, by_step=False)

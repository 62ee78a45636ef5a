"""GraphMAE (KDD 2022) on ogbn-arxiv with the paper's configuration: 71.75 +- 0.17 % there.

Needs `pip install ogb` and a download; one GPU of 24 GB or more, about an hour. Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.graphmae_nodes import *

model.backbone.update(in_dim=128, num_hidden=1024, num_layers=3, num_heads=4, norm="layernorm")
model.backbone.preprocess.update(scaling="zscore")
model.pretexts.graphmae.update(mask_ratio=0.5, replace_rate=0.0, drop_edge_rate=0.5, alpha=3)

train_dataloader.update(dataset=dict(type="OGBNodes", name="ogbn-arxiv", split="all"))
train_cfg.update(max_epochs=1000)
optim_wrapper.optimizer.update(lr=1e-3, weight_decay=0.0)

evaluation = dict(
    train=dict(type="OGBNodes", name="ogbn-arxiv", split="train"),
    val=dict(type="OGBNodes", name="ogbn-arxiv", split="val"),
    test=dict(type="OGBNodes", name="ogbn-arxiv", split="test"),
    protocols=dict(linear=dict(type="LinearAdam", lr=0.01, weight_decay=5e-4, epochs=600)),
)

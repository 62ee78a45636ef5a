"""GraphMAE (KDD 2022) on Reddit with the paper's configuration: 96.01 +- 0.08 % there.

Inductive: pre-trains on the subgraph of the training nodes, which also gives the probe its training rows. The reader
standardises the features. Downloads through torch_geometric; one GPU of 80 GB, hours. Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.graphmae_nodes import *

model.backbone.update(in_dim=602, num_hidden=512, num_layers=4, num_heads=2, norm="layernorm", residual=True)
model.pretexts.graphmae.update(mask_ratio=0.75, replace_rate=0.15, drop_edge_rate=0.5, alpha=3)

train_dataloader.update(dataset=dict(type="Reddit", induced=True, split="all"))
train_cfg.update(max_epochs=500)
optim_wrapper.optimizer.update(lr=1e-3, weight_decay=2e-4)

evaluation = dict(
    train=dict(type="Reddit", induced=True, split="train"),
    val=dict(type="Reddit", split="val"),
    test=dict(type="Reddit", split="test"),
    protocols=dict(linear=dict(type="LinearAdam", lr=0.005, weight_decay=0.0, epochs=500)),
)

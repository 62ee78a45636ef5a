"""GraphMAE (KDD 2022) on Cora with the paper's configuration: 84.2 +- 0.4 % there (20 seeds).

One CPU core: about 5 minutes a seed. Evaluation: linear probe on the public split of 20 labels a class.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.graphmae_planetoid import *

model.backbone.update(in_dim=1433, num_hidden=512, num_layers=2, num_heads=4)
model.pretexts.graphmae.update(mask_ratio=0.5, replace_rate=0.05, alpha=3)

train_dataloader.update(dataset=dict(type="Planetoid", name="cora", split="all"))
train_cfg.update(max_epochs=1500)
optim_wrapper.optimizer.update(lr=1e-3, weight_decay=2e-4)

evaluation.update(
    train=dict(type="Planetoid", name="cora", split="train"),
    val=dict(type="Planetoid", name="cora", split="val"),
    test=dict(type="Planetoid", name="cora", split="test"),
)
evaluation.protocols.linear.update(lr=0.01, weight_decay=1e-4, epochs=300)

"""GraphMAE (KDD 2022) on PubMed with the paper's configuration: 81.1 +- 0.4 % there (20 seeds).

Downloads PubMed through torch_geometric. One GPU: minutes; CPU: some hours. Not run here: no copy of the data at hand.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.graphmae_planetoid import *

model.backbone.update(in_dim=500, num_hidden=1024, num_layers=2, num_heads=4)
model.pretexts.graphmae.update(mask_ratio=0.75, replace_rate=0.0, alpha=3)

train_dataloader.update(dataset=dict(type="Planetoid", name="pubmed", split="all"))
train_cfg.update(max_epochs=1000)
optim_wrapper.optimizer.update(lr=1e-3, weight_decay=1e-5)

evaluation.update(
    train=dict(type="Planetoid", name="pubmed", split="train"),
    val=dict(type="Planetoid", name="pubmed", split="val"),
    test=dict(type="Planetoid", name="pubmed", split="test"),
)
evaluation.protocols.linear.update(lr=0.01, weight_decay=1e-4, epochs=300)

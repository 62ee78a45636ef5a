"""GraphMAE (KDD 2022) on PPI with the paper's configuration: 74.50 +- 0.29 % micro-F1 there.

Inductive, 20 training graphs; downloads through torch_geometric; one GPU. Evaluation: a linear layer with binary
cross-entropy on the nodes of the training graphs, micro-F1 on those of the 2 test graphs. Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.graphmae_nodes import *

model.backbone.update(in_dim=50, num_hidden=1024, num_layers=3, num_heads=4, norm="layernorm", residual=True)
model.pretexts.graphmae.update(mask_ratio=0.5, replace_rate=0.1, alpha=3)

train_dataloader.update(batch_size=2, dataset=dict(type="PPI", split="train"))  # 10 steps an epoch
train_cfg.update(max_epochs=1000)
optim_wrapper.optimizer.update(lr=1e-4, weight_decay=0.0)

evaluation = dict(
    train=dict(type="PPI", split="train"),
    val=dict(type="PPI", split="val"),
    test=dict(type="PPI", split="test"),
    protocols=dict(linear=dict(type="MultiLabelAdam", lr=0.005, weight_decay=0.0, epochs=2000)),
    batch_size=2,  # graphs; attention over all 20 at once is too much for small GPUs
)

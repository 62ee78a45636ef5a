"""GraphMAE (KDD 2022) on REDDIT-BINARY with the paper's configuration: 88.01 +- 0.19 % there (5 seeds).

Downloads through torch_geometric. One GPU. Evaluation: RBF-SVM in 10 stratified folds.
Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.graphmae_graphs import *

model.backbone.update(in_dim=401, num_hidden=512, num_layers=2, norm="layernorm", pooling="sum")
model.pretexts.graphmae.update(mask_ratio=0.75, replace_rate=0.1, alpha=2, decoder_norm="layernorm")

train_dataloader.update(batch_size=8, dataset=dict(type="TUDataset", name="REDDIT-BINARY"))
train_cfg.update(max_epochs=100)
optim_wrapper.optimizer.update(lr=1.5e-4)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=0, min_lr=0.0, by_step=False)

evaluation.update(all=dict(type="TUDataset", name="REDDIT-BINARY"))

"""GraphMAE (KDD 2022) on COLLAB with the paper's configuration: 80.32 +- 0.46 % there (5 seeds).

Downloads through torch_geometric. One GPU. Evaluation: RBF-SVM in 10 stratified folds.
Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.graphmae_graphs import *

model.backbone.update(in_dim=401, num_hidden=256, num_layers=2, activation="relu", pooling="max")
model.pretexts.graphmae.update(mask_ratio=0.75, replace_rate=0.0, alpha=1, decoder_activation="relu")

train_dataloader.update(batch_size=32, dataset=dict(type="TUDataset", name="COLLAB"))
train_cfg.update(max_epochs=20)
optim_wrapper.optimizer.update(lr=1.5e-4)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=0, min_lr=0.0, by_step=False)

evaluation.update(all=dict(type="TUDataset", name="COLLAB"))

"""GraphMAE (KDD 2022) on IMDB-MULTI with the paper's configuration: 51.63 +- 0.52 % there (5 seeds).

One CPU core: minutes a seed. Evaluation: RBF-SVM in 10 stratified folds.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.graphmae_graphs import *

model.backbone.update(in_dim=89, num_hidden=512, num_layers=3, pooling="mean")
model.pretexts.graphmae.update(mask_ratio=0.5, replace_rate=0.0, alpha=1)

train_dataloader.update(batch_size=32, dataset=dict(type="TUDataset", name="IMDB-MULTI"))
train_cfg.update(max_epochs=50)
optim_wrapper.optimizer.update(lr=1.5e-4)

evaluation.update(all=dict(type="TUDataset", name="IMDB-MULTI"))

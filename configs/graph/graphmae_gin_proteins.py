"""GraphMAE (KDD 2022) on PROTEINS with the paper's configuration: 75.30 +- 0.39 % there (5 seeds).

One CPU core: some ten minutes a seed. Evaluation: RBF-SVM in 10 stratified folds.
Features are the tags: the collection also has an attribute, which the reference leaves out.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.graphmae_graphs import *

model.backbone.update(in_dim=3, num_hidden=512, num_layers=3, pooling="max")
model.pretexts.graphmae.update(mask_ratio=0.5, replace_rate=0.0, alpha=1)

train_dataloader.update(batch_size=32, dataset=dict(type="TUDataset", name="PROTEINS", features="tags"))
train_cfg.update(max_epochs=100)
optim_wrapper.optimizer.update(lr=1.5e-4)

evaluation.update(all=dict(type="TUDataset", name="PROTEINS", features="tags"))

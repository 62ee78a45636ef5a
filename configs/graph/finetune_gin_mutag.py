"""Fine-tune the GIN of graphmae_gin_mutag on one fold of MUTAG: 150 training, 19 validation and 19 test molecules.

perception train graph/finetune_gin_mutag --set model.backbone.init_from=runs/graph/graphmae_gin_mutag
starts from a pre-training run; without init_from it trains from scratch. Folds are those of the SVM protocol:
--set sets {train,val,test}_dataloader.dataset.fold. 2 CPU cores, under a minute. Not an experiment of the paper, which
judges frozen features.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

_fold = 0

model = dict(
    type="Classifier",
    backbone=dict(
        type="GIN",
        in_dim=7,
        num_hidden=32,
        num_layers=5,
        in_drop=0.2,
        level="graph",
        pooling="sum",
        preprocess=dict(type="GraphPreprocess", scaling="none", self_loops=True),
    ),
    num_classes=2,
    norm="layer",  # sums over molecules of different size
    dropout=0.5,
)

train_dataloader = dict(batch_size=32, dataset=dict(type="TUDataset", name="MUTAG", split="train", fold=_fold))
val_dataloader = dict(batch_size=32, dataset=dict(type="TUDataset", name="MUTAG", split="val", fold=_fold))
test_dataloader = dict(batch_size=32, dataset=dict(type="TUDataset", name="MUTAG", split="test", fold=_fold))
val_evaluator = dict(type="Accuracy")
test_evaluator = dict(type="Accuracy")

train_cfg = dict(type="TrainLoop", max_epochs=100)
optim_wrapper = dict(
    type="AutocastOptimWrapper", optimizer=dict(type="Adam", lr=1e-3, weight_decay=1e-4), constructor="LayerDecay"
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=5)
default_hooks.update(checkpoint=dict(type="SafeCheckpointHook", save_best="accuracy/top1"))

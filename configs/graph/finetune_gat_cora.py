"""Fine-tune the GAT of graphmae_gat_cora on Cora's public split: 140 labels, 500 validation and 1,000 test nodes.

perception train graph/finetune_gat_cora --set model.backbone.init_from=runs/graph/graphmae_gat_cora --seeds 0 1 2
starts each seed from the pre-training run of the same seed; without init_from it trains from scratch. The weights of
the best validation epoch are tested. 2 CPU cores, about a minute. Not an experiment of the paper, which judges frozen
features.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

model = dict(
    type="Classifier",
    backbone=dict(
        type="GAT",
        in_dim=1433,
        num_hidden=512,
        num_layers=2,
        num_heads=4,
        in_drop=0.2,
        attn_drop=0.1,
        preprocess=dict(type="GraphPreprocess", scaling="row", self_loops=True),
    ),
    num_classes=7,
    dropout=0.5,
)

train_dataloader = dict(batch_size=1, dataset=dict(type="Planetoid", name="cora", split="train"))
val_dataloader = dict(batch_size=1, dataset=dict(type="Planetoid", name="cora", split="val"))
test_dataloader = dict(batch_size=1, dataset=dict(type="Planetoid", name="cora", split="test"))
val_evaluator = dict(type="Accuracy")
test_evaluator = dict(type="Accuracy")

train_cfg = dict(type="TrainLoop", max_epochs=100)
optim_wrapper = dict(
    type="AutocastOptimWrapper", optimizer=dict(type="Adam", lr=1e-3, weight_decay=5e-4), constructor="LayerDecay"
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=5)
default_hooks.update(checkpoint=dict(type="SafeCheckpointHook", save_best="accuracy/top1"))

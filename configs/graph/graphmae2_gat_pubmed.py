"""GraphMAE2 (WWW 2023) on PubMed: adds latent prediction (slow teacher) to GraphMAE.

Downloads PubMed through torch_geometric. What the paper does not list is as in GraphMAE. Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="GAT",
        in_dim=500,
        num_hidden=512,  # all heads together
        num_layers=2,
        num_heads=2,
        in_drop=0.2,
        attn_drop=0.1,
        activation="prelu",
        norm=None,
        residual=False,
        level="node",
        preprocess=dict(type="GraphPreprocess", scaling="row", self_loops=True),
    ),
    pretexts=dict(
        graphmae=dict(
            type="GraphMAE",
            mask_ratio=0.75,
            replace_rate=0.0,
            drop_edge_rate=0.0,
            loss="sce",
            alpha=3,
            decoder="gat",
            remask="fixed",  # the paper's choice on small graphs; "random" decodes num_remasks times
            latent_weight=1.0,
            momentum=0.995,
        )
    ),
)

train_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(type="Planetoid", name="pubmed", split="all"))
train_cfg = dict(type="TrainLoop", max_epochs=2000)  # one step an epoch: the whole graph
optim_wrapper = dict(
    type="AutocastOptimWrapper", dtype="float32", optimizer=dict(type="Adam", lr=0.005, weight_decay=1e-05)
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=0, min_lr=0.0, by_step=False)

evaluation = dict(
    train=dict(type="Planetoid", name="pubmed", split="train"),
    val=dict(type="Planetoid", name="pubmed", split="val"),
    test=dict(type="Planetoid", name="pubmed", split="test"),
    protocols=dict(
        linear=dict(type="LinearAdam", lr=0.025, weight_decay=0.0001, epochs=300),
        # Does better than Adam on raw and propagated features, so the baselines are judged by their best.
        logistic=dict(type="LinearLBFGS", standardise=False, penalty=[1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2]),
        knn=dict(type="KNN", k=20, temperature=0.07),
    ),
)

"""GraphMAE (KDD 2022) on citation graphs: row-normalised words, and the probes on the public split."""

from mmengine.config import read_base

with read_base():
    from .graphmae_nodes import *

model.backbone.preprocess.update(scaling="row")

evaluation = dict(
    protocols=dict(
        linear=dict(type="LinearAdam"),
        # Does better than Adam on raw and propagated features, so the baselines are judged by their best.
        logistic=dict(type="LinearLBFGS", standardise=False, penalty=[1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2]),
        knn=dict(type="KNN", k=20, temperature=0.07),
    ),
)

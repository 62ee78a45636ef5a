"""GraphMAE2 (WWW 2023) on PubMed: adds latent prediction (slow teacher) to GraphMAE.

Downloads PubMed through torch_geometric. What the paper does not list is as in GraphMAE. Not run here.
"""

from mmengine.config import read_base

with read_base():
    from .graphmae_gat_pubmed import *

model.backbone.update(num_hidden=512, num_heads=2)
model.pretexts.graphmae.update(
    remask="fixed",  # the paper's choice on small graphs; "random" decodes num_remasks times
    latent_weight=1.0,
    momentum=0.995,
)

train_cfg.update(max_epochs=2000)
optim_wrapper.optimizer.update(lr=5e-3)
evaluation.protocols.linear.update(lr=0.025)

"""GraphMAE2 (WWW 2023) on Citeseer: adds latent prediction (teacher that never moves) to GraphMAE.

One CPU core: about 15 minutes a seed. What the paper does not list is as in GraphMAE. Not run at full length here.
"""

from mmengine.config import read_base

with read_base():
    from .graphmae_gat_citeseer import *

model.backbone.update(num_hidden=1024, num_heads=4)
model.pretexts.graphmae.update(
    remask="fixed",  # the paper's choice on small graphs; "random" decodes num_remasks times
    latent_weight=0.1,
    momentum=1.0,
)

train_cfg.update(max_epochs=500)
optim_wrapper.optimizer.update(lr=5e-4)
evaluation.protocols.linear.update(lr=0.025)

"""CenterPoint on the pillars of prc_pillars_scenes, from scratch or from a pre-training run.

perception train driving/finetune_pillars_scenes --set model.backbone.init_from=runs/driving/prc_pillars_scenes
starts from a pre-training run; train_dataloader.dataset.fraction=0.1 takes a tenth of the labels.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.centerpoint_scenes import *
    from .._base_.pillars_scenes import model as _pillars

model.update(_pillars)
train_dataloader["dataset"].update(cameras=False)
val_dataloader["dataset"].update(cameras=False)
test_dataloader["dataset"].update(cameras=False)

"""Fine-tune the ViT of mae_vit-tiny_digits on the digits' 60 % training images (embedded, no download).

perception train image/finetune_vit-tiny_digits --set model.backbone.init_from=runs/image/mae_vit-tiny_digits
starts from a pre-training run; without init_from it trains from scratch. Under a minute on two CPU cores.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.digits_classifier import *

"""Fine-tune VideoMAE's ViT-B on UCF101, split 1: 91.3 % top-1 in the paper, pre-trained on UCF101 alone.

Global batch 128 = 8 GPUs x 16, every video drawn twice; not run here. Start it from video/videomae_vit-base_ucf101 with
--set model.backbone.init_from=RUN. As in the paper the test split is also what validation looks at.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.videomae_finetune import *

model["backbone"].update(embed_dim=768, depth=12, num_heads=12)
model["backbone"].update(drop_path_rate=0.2)
model.update(num_classes=101, dropout=0.5)
for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader["dataset"].update(type="UCF101", root="data/ucf101")
for _loader in (val_dataloader, test_dataloader):
    _loader["dataset"].update(split="test")
train_dataloader["dataset"]["transforms"][-1].update(num_classes=101)
train_dataloader.update(batch_size=16)
train_cfg.update(max_epochs=100)
optim_wrapper.update(paramwise_cfg=dict(decay=0.7))
optim_wrapper["optimizer"].update(lr=5e-4 * 128 / 256)

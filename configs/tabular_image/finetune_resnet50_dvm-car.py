"""TIP's fine-tuning on DVM-Car (ECCV 2024), all weights trained: Adam 1e-4, at most 500 epochs, early stopping.

perception train tabular_image/finetune_resnet50_dvm-car --set model.backbone.init_from=RUN
starts from a pre-training run; model.frozen=True trains the head alone, with the backbone truly frozen: the authors'
code keeps its batch norms in training mode. The authors' rate is constant, too. Written for one GPU; not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.dvm_car import *

model = dict(type="Classifier", backbone=model["backbone"], num_classes=286)
train_dataloader = dict(
    batch_size=256,
    num_workers=10,
    pin_memory=True,
    persistent_workers=True,
    dataset=dict(
        type="DVMCar",
        split="train",
        transforms=[
            dict(
                type="Albumentations",
                probability=0.8,
                operations=[dict(name="RandomResizedCrop", size=(128, 128), scale=(0.6, 1.0), p=1.0)],
            ),
            dict(type="CorruptTable", rate=0.3, probability=0.8, into="table"),
        ],
    ),
)
val_dataloader = dict(batch_size=256, num_workers=10, dataset=dict(type="DVMCar", split="val"))
test_dataloader = dict(batch_size=256, num_workers=10, dataset=dict(type="DVMCar", split="test"))
val_evaluator = dict(type="Accuracy")
test_evaluator = [dict(type="Accuracy", topk=(1, 5)), dict(type="MacroF1")]

train_cfg = dict(type="TrainLoop", max_epochs=500, val_interval=1)
optim_wrapper = dict(type="AutocastOptimWrapper", optimizer=dict(type="Adam", lr=1e-4, weight_decay=0.0))
default_hooks.update(checkpoint=dict(type="SafeCheckpointHook", save_best="accuracy/top1"))
custom_hooks = [dict(type="EarlyStopping", monitor="accuracy/top1", patience=10, min_delta=2e-4)]

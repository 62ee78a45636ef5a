"""How small encoders of tables with images are fine-tuned; the model's classes and the data are the child's."""

train_dataloader = dict(
    batch_size=64,
    num_workers=0,  # the images lie in memory
    dataset=dict(
        split="train",
        transforms=[
            dict(type="RandomResizedCrop", size=64, scale=(0.6, 1.0), interpolation="bilinear"),
            dict(type="RandomFlip"),
            dict(type="CorruptTable", rate=0.3, probability=0.8, into="table"),
        ],
    ),
)
val_dataloader = dict(batch_size=256, dataset=dict(split="val"))
test_dataloader = dict(batch_size=256, dataset=dict(split="test"))
val_evaluator = dict(type="Accuracy")
test_evaluator = [dict(type="Accuracy"), dict(type="MacroF1"), dict(type="Calibration")]

train_cfg = dict(type="TrainLoop", max_epochs=30, val_interval=2)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    clip_grad=3.0,
    constructor="LayerDecay",  # no decay of biases, norms and tokens
    # All layers at one rate: with 0.75 a layer the first convolutions of a run from scratch stood nearly still.
    paramwise_cfg=dict(decay=1.0),
    optimizer=dict(type="AdamW", lr=3e-3, weight_decay=0.05),
)
param_scheduler = dict(type="CosineWarmup", warmup_epochs=2, min_lr=0.0, by_step=True)

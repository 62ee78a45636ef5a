"""A dual encoder of full size tuned on the public caption corpora, and how it is judged; the model is the child's.

Every corpus lies as its authors publish it in data/captions/<corpus>, see ``perception.datasets.caption_corpora``.
Before training, tools/leak_check.py compares each training set with all test sets and writes the names to leave out:
267 of the 452 test images of RSITMD are training images of RSICD.
"""

from mmengine.config import read_base

with read_base():
    from .runtime import *

_root = "data/captions"
_corpora = dict(RSICD="rsicd", RSITMD="rsitmd", UCMCaptions="ucm_captions")

train_dataloader = dict(
    batch_size=600,
    num_workers=12,
    drop_last=True,
    pin_memory=True,
    persistent_workers=True,
    dataset=dict(type="Concatenated"),  # datasets, transforms: the child's
)
train_cfg = dict(type="TrainLoop", max_epochs=7)
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    constructor="LayerDecay",  # no decay of biases, norms and the logit scale
    optimizer=dict(type="AdamW", lr=5e-6, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.5),
    clip_grad=dict(max_norm=50.0),
)
param_scheduler = dict(type="CosineWarmup", warmup_steps=100, min_lr=0.0, by_step=True)

evaluation = dict(
    test=dict(type="RSICD", root=f"{_root}/rsicd", split="test"),
    protocols={
        f"retrieval_{folder}": dict(
            type="Retrieval",
            rules="georsclip",  # captions as they are
            languages=["en"],
            dataset=dict(type=name, root=f"{_root}/{folder}", split="test"),
        )
        for name, folder in _corpora.items()
    },
    batch_size=256,
    num_workers=8,
)
evaluation["protocols"].update(
    zero_shot_rsicd=dict(type="ZeroShot", prompts="vt-rsbs"),
    zero_shot_eurosat=dict(type="ZeroShot", prompts="vt-rsbs", dataset=dict(type="EuroSAT", split="test", size=224)),
)

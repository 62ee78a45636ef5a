"""CDFSL-V (ICCV 2023) at 64 pixels and 8 frames: the encoder of its stages, and episodes in RailWagon4's test clips."""

from mmengine.config import read_base

with read_base():
    from .runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="VideoViT",
        image_size=64,
        frames=8,
        patch_size=16,
        tubelet=2,  # 64 cubes
        embed_dim=128,
        depth=4,
        num_heads=4,
        mlp_ratio=2.0,
        # Without what stands still: five scenes differ more than what happens in them.
        preprocess=dict(
            type="VideoPreprocess",
            size=(64, 64),
            frames=8,
            stride=6,
            mean=(0.45,) * 3,
            std=(0.225,) * 3,
            motion_only=True,
        ),
    ),
)

_shown = dict(type="RailWagon4", frames=8, sampling="uniform_views", size=64)  # one clip over the whole length
_asked = dict(type="FewShotEpisodes", ways=4, shots=[1, 5], queries=5, episodes=600)
evaluation = dict(
    train=dict(**_shown, split="train"),
    test=dict(**_shown, split="test"),
    protocols=dict(
        episodes=_asked,  # features as they are, as in the paper
        # Scaled by the statistics of the train clips, whose labels are not looked at: what suits pixels best.
        scaled=dict(**_asked, standardise=True, unit=True),
    ),
)

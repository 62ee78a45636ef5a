"""CDFSL-V (ICCV 2023): the ViT-S of all its stages, and its episodes on the target's test split; the child's target.

data/kinetics364/train.csv lists Kinetics-400 without the 36 classes that UCF101 and HMDB51 have, too: ``path,label``.
Where the paper's test script made its tables, and its figures below chance say so, they compare with the row
legacy_accuracy of all_queries, not with accuracy.
"""

from mmengine.config import read_base

with read_base():
    from .runtime import *

model = dict(
    type="Pretrainer",
    backbone=dict(
        type="VideoViT",
        image_size=112,
        frames=16,
        patch_size=16,
        tubelet=2,  # 392 cubes
        embed_dim=384,
        depth=12,
        num_heads=6,
        preprocess=dict(type="VideoPreprocess", size=(112, 112), frames=16, stride=4),
    ),
)

evaluation = dict(
    test=dict(split="test", frames=16, stride=4, sampling="dense_views", size=112, on_error="skip"),
    feature="norm-gap",  # mean of the tokens, then the norm
    protocols=dict(
        episodes=dict(type="FewShotEpisodes", ways=5, shots=[1, 5, 20], queries=15, episodes=600),
        # The paper asks for all other clips of the five classes.
        all_queries=dict(type="FewShotEpisodes", ways=5, shots=[1, 5, 20], queries=None, episodes=600),
    ),
    batch_size=64,
    num_workers=10,
)

"""CLIP from scratch on 1,200 RSICD images with captions: retrieval and zero-shot on the 1,093 test images.

A minute on one CPU core. open_clip trained for as many steps has a mean recall of 3.65 and 23.6 % zero-shot.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.clip_rsicd_mini import *

"""CLIP from scratch on 1,200 RSICD images with captions: retrieval and zero-shot on the 1,093 test images."""

from mmengine.config import read_base

with read_base():
    from .._base_.clip_rsicd_mini import *

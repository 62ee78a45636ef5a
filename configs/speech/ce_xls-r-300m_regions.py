"""Regime A of language varieties (LREC-COLING 2024): XLS-R 300M tuned by cross-entropy alone, on a table of your own.

The figure it is compared with is regime C's. One GPU of 40 GB, five seeds: --seeds 0 1 2 3 4; not run here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.speech_regions_task import *

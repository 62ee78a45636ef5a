"""Views of images with the random numbers of a given seed and epoch."""

import numpy as np
import torch

from perception.transforms.randomness import SampleRandom


def views_of(transform, pixels, indices, seed=3, epoch=1):
    """The batch that ``transform`` makes of ``pixels``, the samples ``indices`` of a data set."""
    indices = np.asarray(indices)
    return transform({"image": pixels, "index": torch.from_numpy(indices)}, SampleRandom(seed, epoch, indices))

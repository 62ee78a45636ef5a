"""The full CIFAR-100 through torchvision, with its own download."""

from __future__ import annotations

from perception.datasets.cifar10 import TorchvisionCIFAR
from perception.registry import DATASETS


@DATASETS.register_module()
class CIFAR100(TorchvisionCIFAR):
    """CIFAR-100 ("Learning Multiple Layers of Features from Tiny Images", Krizhevsky, 2009), 32 x 32 RGB.

    Labels are the 100 fine classes. Of the 500 training images of each, 50 (drawn by a fixed seed) are our validation
    set: CIFAR-100 has none.

    Args:
        root: folder that holds, or will hold, ``cifar-100-python``.
        split: ``train`` 45,000, ``val`` 5,000, ``train50000`` both, as published figures are made, ``test`` 10,000, or
            ``pretrain``: ``train`` and ``val`` without labels.
        download: fetch the archive (169 MB) where it is missing; its checksum is verified by torchvision.
        transforms: see ``Dataset``.
        seed: see ``Dataset``.
    """

    TITLE, READER, FOLDER = "CIFAR-100", "CIFAR100", "cifar-100-python"

"""The data set contract: whole batches by index, augmented reproducibly."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch.utils.data import Dataset as TorchDataset

from perception.errors import DataError
from perception.registry import FUNCTIONS, TRANSFORMS
from perception.transforms.base import Compose, Transform, identity_collate
from perception.transforms.preprocess import Batch
from perception.transforms.randomness import SampleRandom

FUNCTIONS.register_module(name="identity_collate", module=identity_collate, force=True)


class SampleKey(int):
    """A sample's position that remembers the epoch it is drawn in, so that workers can seed its augmentation."""

    epoch: int

    def __new__(cls, index: int, epoch: int = 0) -> SampleKey:
        """A key for ``index``, drawn in ``epoch``."""
        key = super().__new__(cls, index)
        key.epoch = epoch
        return key

    def __reduce__(self) -> tuple[Any, ...]:
        return (SampleKey, (int(self), self.epoch))


class Dataset(TorchDataset):
    """Base of all data sets.

    A subclass implements ``__len__`` and ``fetch``. The loader asks for a whole batch at once, so data that lies in
    memory is indexed once per batch, without a Python loop over samples.

    Args:
        transforms: configs or instances applied in order to every batch.
        seed: seed of the augmentation; the runner sets it to the run's seed.

    Attributes:
        modality: name of the modality.
        classes: class names in label order, empty without labels.
        full_batch: True where one batch is the whole data set (a node-level graph).
        cut_by: arguments that decide which samples are in which split: the splits of a run must agree on them.
        captioned: True where ``fetch`` gives ``captions``.
        repeats: samples that a batch gets of every index, drawn independently, one pass over the indices after the
            other; more than one clip of a video that has been decoded, for instance.
    """

    modality: ClassVar[str]
    classes: tuple[str, ...] = ()
    full_batch: ClassVar[bool] = False
    cut_by: ClassVar[tuple[str, ...]] = ()
    captioned: ClassVar[bool] = False
    repeats: int = 1

    def __init__(self, transforms: Sequence[Transform | dict[str, Any]] = (), seed: int = 0) -> None:
        self.seed = seed
        self.transform = Compose([t if isinstance(t, Transform) else TRANSFORMS.build(dict(t)) for t in transforms])

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, indices: np.ndarray) -> Batch:
        """RAW batch of the samples at ``indices`` (n,), with ``index`` (n,) int64 and, where known, ``label``."""

    def __getitems__(self, keys: Sequence[int]) -> Batch:
        indices = np.fromiter((int(k) for k in keys), dtype=np.int64, count=len(keys))
        epoch = keys[0].epoch if isinstance(keys[0], SampleKey) else 0
        random = SampleRandom(self.seed, epoch, indices)
        if self.repeats > 1:
            indices, random = np.tile(indices, self.repeats), random.streams(self.repeats)
        return self.transform(self.draw(indices, random), random)

    def draw(self, indices: np.ndarray, random: SampleRandom) -> Batch:
        """As ``fetch``, for data of which every draw takes another part, such as clips of videos.

        Args:
            indices: (n,) positions of the samples.
            random: numbers of these n samples; whoever takes none leaves this method alone.
        """
        return self.fetch(indices)

    def __getitem__(self, key: int) -> Batch:
        """A batch of one sample."""
        return self.__getitems__([key])


def data_root(root: str | None, area: str, download_hint: str) -> Path:
    """Folder of a data area: ``root`` if given, else ``$PERCEPTION_DATA/<area>``.

    Raises:
        DataError: neither exists; the message says what to set and where the data comes from.
    """
    if root is not None:
        folder = Path(root).expanduser()
        origin = f"root={root!r}"
    elif "PERCEPTION_DATA" in os.environ:
        folder = Path(os.environ["PERCEPTION_DATA"]).expanduser() / area
        origin = f"PERCEPTION_DATA={os.environ['PERCEPTION_DATA']!r}"
    else:
        raise DataError(f"no data folder for {area!r}: set root= or the variable PERCEPTION_DATA. {download_hint}")
    if not folder.is_dir():
        raise DataError(f"folder {str(folder)!r} (from {origin}) does not exist. {download_hint}")
    return folder


def load_arrays(path: str | Path, required: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read a ``.npz`` of plain arrays; pickled objects are refused.

    Raises:
        DataError: the file is missing, damaged, holds pickles, or lacks one of the ``required`` arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"file {str(path)!r} does not exist")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise DataError(f"{str(path)!r} holds pickled objects, which could run code: refused") from error
        raise DataError(f"{str(path)!r} is not a readable npz archive: {error}") from error
    except Exception as error:  # zipfile, zlib and OS errors: all mean a damaged file
        raise DataError(f"{str(path)!r} is not a readable npz archive: {error}") from error
    missing = [name for name in required if name not in arrays]
    if missing:
        raise DataError(f"{str(path)!r} lacks the arrays {missing}; it holds {sorted(arrays)}")
    return arrays

"""Random numbers that depend on (seed, epoch, sample index) alone.

Augmentation then is the same whatever the number of workers, the batch a sample falls into or the place where an
interrupted run went on.
"""

from __future__ import annotations

import numpy as np


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64 finaliser: (n,) uint64 -> (n,) uint64 with well mixed bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class SampleRandom:
    """Counter-based random numbers for the samples of one batch.

    Args:
        seed: seed of the run.
        epoch: epoch that the samples are drawn in.
        indices: (n,) positions of the samples in the data set.
    """

    def __init__(self, seed: int, epoch: int, indices: np.ndarray) -> None:
        self.indices = np.asarray(indices)
        golden = np.uint64(0x9E3779B97F4A7C15)
        with np.errstate(over="ignore"):
            key = _mix(np.asarray([seed], dtype=np.int64).astype(np.uint64) * golden + np.uint64(1))
            key = _mix(key + np.asarray([epoch], dtype=np.int64).astype(np.uint64) * golden)
            self._key = _mix(key + self.indices.astype(np.int64).astype(np.uint64) * golden)
        self._counter = 0

    def __len__(self) -> int:
        return len(self.indices)

    def bits(self) -> np.ndarray:
        """(n,) uint64, the next draw of every sample."""
        self._counter += 1
        with np.errstate(over="ignore"):
            return _mix(self._key + np.uint64(self._counter) * np.uint64(0xD1B54A32D192ED03))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """(n,) float64 in [low, high)."""
        unit = (self.bits() >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return low + (high - low) * unit

    def integers(self, low: int, high: int) -> np.ndarray:
        """(n,) int64 in [low, high)."""
        return (low + np.floor(self.uniform() * (high - low))).astype(np.int64)

    def streams(self, count: int) -> SampleRandom:
        """``count`` independent streams for every sample: random numbers of (count * n,), stream by stream.

        For several views of each sample, drawn in one go. It takes one draw.
        """
        golden = np.uint64(0x9E3779B97F4A7C15)
        base = self.bits()
        split = SampleRandom(0, 0, np.tile(self.indices, count))
        with np.errstate(over="ignore"):
            offsets = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * golden
            split._key = _mix(base[None, :] + offsets[:, None]).reshape(-1)
        return split

    def rows(self, positions: np.ndarray) -> SampleRandom:
        """The numbers of the samples at ``positions`` of the batch, from the next draw on."""
        part = SampleRandom(0, 0, self.indices[positions])
        part._key, part._counter = self._key[positions], self._counter
        return part

    def generator(self, position: int) -> np.random.Generator:
        """A numpy generator for the sample at ``position`` of the batch, for transforms that draw at their own pace."""
        return np.random.default_rng(int(self._key[position]))

"""Which frames of a video make a clip: pure functions from frame counts and random numbers to frame numbers.

The rules are those of VideoMAE ("VideoMAE: Masked Autoencoders are Data-Efficient Learners", Tong et al., 2022) and,
for segments, of TSN ("Temporal Segment Networks", Wang et al., 2016). All videos of a batch are handled at once; random
numbers are given, not drawn, so that they can be a function of (seed, epoch, sample).
"""

from __future__ import annotations

import numpy as np

# name -> whether it takes random numbers
SAMPLINGS = {
    "random": True,
    "dense": True,
    "uniform": True,
    "dense_views": False,
    "uniform_views": False,
    "whole": False,
}


def random_frames(totals: np.ndarray, frames: int, stride: int, draws: np.ndarray) -> np.ndarray:
    """Pre-training: a random start from which ``frames * stride`` frames fit, then every ``stride``-th frame.

    A shorter video starts at frame 0 and repeats the last frame that the steps reach.

    Args:
        totals: (n,) frames of every video.
        frames: T, frames of a clip.
        stride: step between them.
        draws: (n,) uniform in [0, 1).

    Returns:
        (n, T) int64 frame numbers.
    """
    totals = _checked(totals)
    starts = np.floor(draws * (np.maximum(totals - frames * stride, 0) + 1)).astype(np.int64)
    reach = (totals - 1 - starts) // stride  # whole steps that stay inside
    return starts[:, None] + np.minimum(np.arange(frames), reach[:, None]) * stride


def dense_frames(totals: np.ndarray, frames: int, stride: int, draws: np.ndarray) -> np.ndarray:
    """Fine-tuning: a random window of ``frames * stride`` frames, cut into T - 1 equal steps that are rounded down.

    The last step would end just behind the window and gives its last frame. A video that is not longer than the window
    gives every ``stride``-th frame, then its last one again and again.

    Args:
        totals: (n,) frames of every video.
        frames: T, frames of a clip.
        stride: mean step between them.
        draws: (n,) uniform in [0, 1).

    Returns:
        (n, T) int64 frame numbers.
    """
    totals = _checked(totals)
    window = frames * stride
    spare = totals - window
    starts = np.floor(draws * (np.maximum(spare, 0) + 1)).astype(np.int64)
    steps = np.minimum(np.linspace(0, window, frames), window - 1).astype(np.int64)
    short = np.minimum(np.arange(frames) * stride, totals[:, None] - 1)
    return np.where((spare > 0)[:, None], starts[:, None] + steps, short)


def uniform_frames(totals: np.ndarray, frames: int, draws: np.ndarray) -> np.ndarray:
    """Fine-tuning on ordered actions: one random frame of each of T equal segments of the whole video.

    Args:
        totals: (n,) frames of every video.
        frames: T, frames of a clip.
        draws: (n, T) uniform in [0, 1), one for each segment.

    Returns:
        (n, T) int64 frame numbers.
    """
    tick = _checked(totals)[:, None] / frames
    number = np.arange(frames)
    last = np.ceil(tick * (number + 1)) - 1  # a draw just below 1 may be rounded up to the next segment
    return np.minimum(np.floor(tick * (number + draws)), last).astype(np.int64)


def dense_view_frames(totals: np.ndarray, frames: int, stride: int, view: np.ndarray, views: int = 5) -> np.ndarray:
    """Test: of every ``stride``-th frame of the video, view k takes T in a row, from ``int(k (n' - T) / (V - 1))``.

    A list of n' < T frames is filled up with its last one. A single view lies in the middle.

    Args:
        totals: (n,) frames of every video.
        frames: T, frames of a clip.
        stride: step between them.
        view: (n,) number k of the view, from 0.
        views: V.

    Returns:
        (n, T) int64 frame numbers.
    """
    totals = _checked(totals)
    there = -(-totals // stride)  # n', rounded up
    spare = np.maximum(there - frames, 0)
    starts = spare // 2 if views == 1 else view * spare // (views - 1)
    return np.minimum(starts[:, None] + np.arange(frames), there[:, None] - 1) * stride


def uniform_view_frames(totals: np.ndarray, frames: int, view: np.ndarray, views: int = 2) -> np.ndarray:
    """Test: starts ``int(tick i)`` and centres ``int(tick / 2 + tick i)`` of T segments, sorted, dealt out in turn.

    View 0 of two thus has the starts and view 1 the centres. A single view has the centres.

    Args:
        totals: (n,) frames of every video.
        frames: T, frames of a clip.
        view: (n,) number of the view, 0 or 1.
        views: 1 or 2.

    Returns:
        (n, T) int64 frame numbers.
    """
    if views not in (1, 2):
        raise ValueError(f"segments give 1 or 2 views, not {views}")
    tick = _checked(totals)[:, None] / frames
    shift = np.full(len(totals), 0.5) if views == 1 else np.asarray(view) * 0.5
    return np.floor(tick * shift[:, None] + tick * np.arange(frames)).astype(np.int64)


def whole_frames(totals: np.ndarray, frames: int) -> np.ndarray:
    """The whole video at equal steps, both ends included: ``int(linspace(0, n - 1, T))``.

    Args:
        totals: (n,) frames of every video.
        frames: T, frames of a clip.

    Returns:
        (n, T) int64 frame numbers.
    """
    return np.linspace(0, _checked(totals) - 1, frames, axis=1).astype(np.int64)


def frames_within(totals: np.ndarray, rates: np.ndarray, seconds: float) -> np.ndarray:
    """Frames that are shown before ``seconds`` are over: frame i is shown from ``i / rate`` on. At least one.

    Args:
        totals: (n,) frames of every video.
        rates: (n,) frames a second of every video.
        seconds: length that is used; shorter videos are used whole.

    Returns:
        (n,) int64 numbers of frames.
    """
    # Files round their rates: a frame that begins at the limit must not count because 10 * 29.9999 was rounded up.
    there = np.ceil(np.asarray(rates, dtype=np.float64) * seconds - 1e-3).astype(np.int64)
    return np.minimum(_checked(totals), np.maximum(there, 1))


def crop_offsets(length: int, size: int, crops: int = 3) -> np.ndarray:
    """Test: where ``crops`` windows of ``size`` start along a side of ``length``; one lies in the middle.

    With three it is ``int(i (length - size) / 2)``.

    Returns:
        (crops,) int64.
    """
    spare = length - size
    if spare < 0:
        raise ValueError(f"a window of {size} does not fit into {length}")
    return np.array([spare // 2]) if crops == 1 else np.arange(crops) * spare // (crops - 1)


def _checked(totals: np.ndarray) -> np.ndarray:
    totals = np.asarray(totals, dtype=np.int64)
    if len(totals) and totals.min() < 1:
        raise ValueError("a video without frames gives no clip")
    return totals

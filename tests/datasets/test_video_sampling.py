"""Frame numbers worked out by hand from the rules."""

import numpy as np
import pytest

from perception.datasets.video_sampling import (
    crop_offsets,
    dense_frames,
    dense_view_frames,
    frames_within,
    random_frames,
    uniform_frames,
    uniform_view_frames,
)

JUST_BELOW_ONE = np.nextafter(1.0, 0.0)


def rows(*values):
    return np.array(values)


def test_pretraining_starts_where_all_steps_fit():
    # 20 frames, 4 x 4 = 16: starts 0 to 4.
    found = random_frames(rows(20, 20, 20, 16), 4, 4, rows(0.0, 0.5, JUST_BELOW_ONE, JUST_BELOW_ONE))
    assert found.tolist() == [[0, 4, 8, 12], [2, 6, 10, 14], [4, 8, 12, 16], [0, 4, 8, 12]]
    draws = np.random.default_rng(0).random(5000)
    starts = random_frames(np.full(5000, 20), 4, 4, draws)[:, 0]
    assert np.bincount(starts, minlength=5).min() > 900  # five starts, equally likely


def test_pretraining_on_short_videos_repeats_the_last_reachable_frame():
    # Steps of 4 reach 8 of 0..9, 4 of 0..6, and nothing beyond 0 of a single frame.
    found = random_frames(rows(10, 7, 1), 4, 4, rows(0.9, 0.9, 0.9))
    assert found.tolist() == [[0, 4, 8, 8], [0, 4, 4, 4], [0, 0, 0, 0]]


def test_dense_windows_are_cut_by_linspace_with_both_ends():
    # Window of 16: linspace(0, 16, 4) = 0, 5.33, 10.67, 16, the last one outside and so 15.
    found = dense_frames(rows(20, 20, 20), 4, 4, rows(0.0, 0.5, JUST_BELOW_ONE))
    assert found.tolist() == [[0, 5, 10, 15], [2, 7, 12, 17], [4, 9, 14, 19]]
    # 16 frames at stride 4: 64 / 15 = 4.267 a step.
    known = [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]
    assert dense_frames(rows(100), 16, 4, rows(0.0)).tolist() == [known]


def test_dense_short_videos_are_padded_with_the_last_frame():
    found = dense_frames(rows(10, 16, 1), 4, 4, rows(0.9, 0.9, 0.9))
    assert found.tolist() == [[0, 4, 8, 9], [0, 4, 8, 12], [0, 0, 0, 0]]


def test_dense_views_over_the_decimated_list():
    # 41 frames at stride 2: n' = 21 (0, 2, ..., 40); T = 4: starts int(k 17 / 4) = 0, 4, 8, 12, 17.
    found = dense_view_frames(np.full(5, 41), 4, 2, np.arange(5))
    assert (found[:, 0] // 2).tolist() == [0, 4, 8, 12, 17]
    assert found[1].tolist() == [8, 10, 12, 14] and found[4].tolist() == [34, 36, 38, 40]
    assert dense_view_frames(rows(41), 4, 2, rows(0), views=1).tolist() == [[16, 18, 20, 22]]  # 17 // 2 = 8
    # 5 frames at stride 2 are 0, 2, 4: every view is padded with 4.
    assert dense_view_frames(rows(5, 5), 4, 2, rows(0, 4)).tolist() == [[0, 2, 4, 4]] * 2


def test_uniform_takes_one_frame_of_every_segment():
    # 10 frames in 4 segments of 2.5: 0-2.5, 2.5-5, 5-7.5, 7.5-10.
    low, high = np.zeros((1, 4)), np.full((1, 4), JUST_BELOW_ONE)
    assert uniform_frames(rows(10), 4, low).tolist() == [[0, 2, 5, 7]]
    assert uniform_frames(rows(10), 4, high).tolist() == [[2, 4, 7, 9]]
    assert uniform_frames(rows(10), 4, np.array([[0.5, 0.0, 0.9, 0.4]])).tolist() == [[1, 2, 7, 8]]
    assert uniform_frames(rows(2), 4, low).tolist() == [[0, 0, 1, 1]]


def test_uniform_views_are_starts_and_centres():
    # tick 2.5: starts 0, 2, 5, 7; centres 1.25, 3.75, 6.25, 8.75. Merged: 0 1 2 3 5 6 7 8.
    found = uniform_view_frames(rows(10, 10), 4, rows(0, 1))
    assert found.tolist() == [[0, 2, 5, 7], [1, 3, 6, 8]]
    assert uniform_view_frames(rows(10), 4, rows(0), views=1).tolist() == [[1, 3, 6, 8]]
    for total in (1, 3, 4, 17, 250):
        tick = total / 4
        merged = sorted([int(tick * i) for i in range(4)] + [int(tick / 2 + tick * i) for i in range(4)])
        both = uniform_view_frames(rows(total, total), 4, rows(0, 1))
        assert both.tolist() == [merged[0::2], merged[1::2]]
    with pytest.raises(ValueError, match="1 or 2"):
        uniform_view_frames(rows(10), 4, rows(0), views=3)


def test_frames_of_the_first_seconds():
    ntsc = 30000 / 1001  # frame 299 begins at 9.977 s
    assert frames_within(rows(1000, 1000, 1000, 7), rows(25, ntsc, 29.9999, 25), 10).tolist() == [250, 300, 300, 7]
    # 3 s of 9.99999 and of 10.00001 a second are thirty frames: rates are rounded in files.
    assert frames_within(rows(99, 99, 99), rows(9.99999, 10.00001, 0.1), 3).tolist() == [30, 30, 1]
    with pytest.raises(ValueError, match="without frames"):
        frames_within(rows(0), rows(25), 1)


def test_crops_along_the_long_side():
    assert crop_offsets(341, 224).tolist() == [0, 58, 117]  # int(i 117 / 2)
    assert crop_offsets(224, 224).tolist() == [0, 0, 0]
    assert crop_offsets(341, 224, crops=1).tolist() == [58]
    with pytest.raises(ValueError, match="does not fit"):
        crop_offsets(200, 224)


def test_every_frame_number_exists():
    totals = np.arange(1, 90)
    draws = np.full(len(totals), JUST_BELOW_ONE)
    zeros = np.zeros(len(totals), dtype=np.int64)
    found = [
        random_frames(totals, 8, 3, draws),
        dense_frames(totals, 8, 3, draws),
        uniform_frames(totals, 8, np.repeat(draws[:, None], 8, axis=1)),
        dense_view_frames(totals, 8, 3, zeros + 4),
        uniform_view_frames(totals, 8, zeros + 1),
    ]
    for numbers in found:
        assert numbers.shape == (89, 8) and numbers.dtype == np.int64
        assert (numbers >= 0).all() and (numbers < totals[:, None]).all() and (np.diff(numbers, axis=1) >= 0).all()
    with pytest.raises(ValueError, match="without frames"):
        random_frames(rows(0), 4, 4, rows(0.0))

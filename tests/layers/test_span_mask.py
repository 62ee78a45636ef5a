"""Span masks and distractors of wav2vec 2.0."""

import pytest
import torch

from perception.errors import DataError
from perception.layers.span_mask import hidden_places, sample_negatives, span_mask


def full(count, frames):
    return torch.full((count,), frames)


@pytest.mark.parametrize(
    ("probability", "frames", "expected"), [(0.65, 499, 0.4906), (0.65, 199, 0.494), (0.5, 1000, 0.402)]
)
@pytest.mark.parametrize("variant", ["fairseq", "transformers"])
def test_share_of_hidden_frames(probability, frames, expected, variant):
    torch.manual_seed(0)
    masks = [span_mask(full(1, frames), frames, probability, variant=variant) for _ in range(1000)]
    share = torch.cat(masks).float().mean(dim=1)
    assert share.mean().item() == pytest.approx(expected, abs=0.01)
    if frames == 499:
        assert share.std().item() == pytest.approx(0.029, abs=0.004)
        starts = torch.cat([torch.nn.functional.pad(m, (1, 0))[:, :-1].logical_not() & m for m in masks])
        assert starts.sum(dim=1).float().mean().item() == pytest.approx(16.8, abs=0.4)


def test_two_spans_at_least_and_the_same_share_as_transformers_function():
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

    torch.manual_seed(0)
    ours = span_mask(full(4000, 60), 60, 0.05, min_spans=2, variant="transformers").float().mean().item()
    theirs = _compute_mask_indices((4000, 60), 0.05, 10, min_masks=2).mean()
    assert ours == pytest.approx(0.304, abs=0.005) and ours == pytest.approx(theirs, abs=0.005)


@pytest.mark.parametrize("variant", ["fairseq", "transformers"])
def test_spans_stay_on_real_frames_and_reach_the_last_place(variant):
    torch.manual_seed(0)
    lengths = torch.tensor([30, 12, 10, 21])
    hits = torch.zeros(4, 30)
    for _ in range(300):
        mask = span_mask(lengths, 30, variant=variant)
        counts = mask.sum(dim=1)
        assert not (mask & (torch.arange(30) >= lengths[:, None])).any()
        if variant == "fairseq":
            assert len(set(counts.tolist())) == 1  # trimmed to the fewest
        else:
            runs = mask[1].nonzero().flatten()
            assert len(runs) >= 10 and (runs.diff() == 1).all()
        hits += mask
    last = hits.gather(1, lengths[:, None] - 1).flatten()
    # fairseq's starts end one place earlier, so the last frame is hidden only where one place is all there is.
    assert (last[[0, 1, 3]] == 0).all() if variant == "fairseq" else (last > 0).all()


def test_short_clips_are_named():
    with pytest.raises(DataError, match="clip 1 of the batch has 9 frames, fewer than the 10"):
        span_mask(torch.tensor([20, 9]), 20)
    with pytest.raises(DataError, match="no distractor"):
        span_mask(torch.tensor([3]), 3, probability=0.01, span=1, min_spans=1)
    with pytest.raises(DataError, match="fewer than two"):
        sample_negatives(torch.tensor([[True, False]]), 3)


def test_distractors_are_the_other_hidden_frames_of_the_clip_evenly():
    torch.manual_seed(0)
    mask = torch.tensor([[True, False, True, True, False], [False, True, False, False, True]])
    rows, own = hidden_places(mask)
    assert rows.tolist() == [0, 0, 0, 1, 1] and own.tolist() == [0, 1, 2, 0, 1]
    drawn = sample_negatives(mask, 4000)
    assert drawn.shape == (5, 4000) and not (drawn == own[:, None]).any()
    for row, expected in enumerate([{1, 2}, {0, 2}, {0, 1}, {1}, {0}]):
        values, counts = drawn[row].unique(return_counts=True)
        assert set(values.tolist()) == expected
        assert (counts / 4000 - 1 / len(expected)).abs().max() < 0.03


def test_the_same_generator_gives_the_same_mask():
    masks = [span_mask(full(3, 50), 50, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*masks)

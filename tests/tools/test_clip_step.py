"""Both contenders of the CLIP benchmark do the same work: equal losses and equal weights, step by step."""

import pytest
import torch
from benchmarks import clip_step

MINI = clip_step.Size(image=32, patch=16, layers=2, width=64, text_layers=2, context=24, words=40)


def test_captions_are_as_long_as_rsicds():
    counts = [len(text.split()) for text in clip_step.captions(clip_step.TINY)]
    assert len(counts) == clip_step.BATCH and 10 <= sum(counts) / len(counts) <= 11.5
    assert min(counts) >= 4 and max(counts) <= 32


def test_three_training_steps_are_open_clips():
    mine, my_step = clip_step.ours(MINI, "cpu")
    public, public_step = clip_step.theirs(MINI, "cpu")
    mine.backbone.load_state_dict(public.state_dict())
    for _ in range(3):
        assert my_step().item() == pytest.approx(public_step().item(), rel=1e-4)
    moved = 0.0
    for name, value in public.state_dict().items():
        found = mine.backbone.state_dict()[name]
        # AdamW turns a gradient that is zero but for rounding into a step of any sign: compare where it is not.
        close = (found - value).abs() < 2e-4
        assert close.float().mean() > 0.97, name
        moved = max(moved, (value - clip_step.theirs(MINI, "cpu")[0].state_dict()[name]).abs().max().item())
    assert moved > 1e-3


def test_the_towers_have_the_sizes_that_the_notes_say():
    mine, _ = clip_step.ours(clip_step.TINY, "cpu")
    assert sum(p.numel() for p in mine.parameters()) == 1_225_985  # the README's 1.23 million
    with torch.no_grad():
        assert mine.backbone.embed_text(["w1 w2"]).shape == (1, 128)

"""Contenders of the speech benchmarks do the same work: equal sizes, losses and steps; equal waveforms."""

import argparse

import pytest
import torch
from benchmarks import speech_loading, wav2vec2

from perception.layers.span_mask import hidden_places, sample_negatives
from perception.pretext.wav2vec2 import split_public_state
from perception.registry import MODELS


@pytest.fixture
def small(monkeypatch):
    """Sizes at which a step takes milliseconds; 24 frames, as 8,000 samples have."""
    for name, value in dict(
        BATCH=3, SAMPLES=8000, FRAMES=24, NEGATIVES=5, CHANNELS=16, WIDTH=16, DEPTH=1, HEADS=2, HIDDEN=16
    ).items():
        monkeypatch.setattr(wav2vec2, name, value)
    for name, value in dict(ENTRIES=8, CODES=8, POSITIONS=8, GROUPS=2).items():
        monkeypatch.setattr(wav2vec2, name, value)


@pytest.mark.parametrize("norm", wav2vec2.NORMS)
def test_both_models_have_the_same_weights_and_losses(small, norm):
    torch.manual_seed(0)
    public = wav2vec2.transformers_model(norm).eval()
    ours = MODELS.build(wav2vec2.library_config(norm)).eval()
    encoder, rest = split_public_state(public.state_dict())
    ours.backbone.load_state_dict(encoder)
    pretext = ours.pretexts["wav2vec2"]
    missing, unexpected = pretext.load_state_dict(rest, strict=False)
    assert missing == ["quantizer.updates"] and not unexpected
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in public.parameters())
    clips = wav2vec2.raw_clips()
    assert clips.shape == (3, 8000) and int(ours.backbone.frame_lengths(torch.tensor(8000))) == wav2vec2.FRAMES
    mask = pretext.draw_mask(torch.full((3,), 24), 24)
    negatives = sample_negatives(mask, wav2vec2.NEGATIVES)
    whole = torch.zeros(3, 24, wav2vec2.NEGATIVES, dtype=torch.long)
    rows, _ = hidden_places(mask)
    for row in range(3):  # transformers counts the frames of all clips
        places = mask[row].nonzero()[:, 0]
        whole[row, places] = places[negatives[rows == row]] + 24 * row
    with torch.no_grad():
        found = pretext.losses(pretext.run(ours.backbone, {"audio": clips}, mask), negatives)["loss"]
        theirs = public(clips, mask_time_indices=mask, sampled_negative_indices=whole).loss / mask.sum()
    torch.testing.assert_close(found, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "build", [wav2vec2.ours_group, wav2vec2.ours_layer, wav2vec2.theirs_group, wav2vec2.theirs_layer]
)
def test_every_step_learns(small, build):
    step = build("cpu")
    losses = [float(step()) for _ in range(3)]
    assert all(0.5 < loss < 10 for loss in losses) and len(set(losses)) == 3


def test_loaders_give_the_same_waveforms(monkeypatch, tmp_path):
    for name, value in dict(FILES=3, SECONDS=1).items():
        monkeypatch.setattr(speech_loading, name, value)
    speech_loading.folder.cache_clear()
    try:
        for ours, peer in (
            (speech_loading.build_ours, speech_loading.build_peer),
            (speech_loading.build_ours_resampled, speech_loading.build_peer_resampled),
        ):
            mine, theirs = ours("cpu")(), peer("cpu")()
            assert mine.shape == (3, 16000)
            torch.testing.assert_close(mine, theirs.clamp(-1, 1), atol=1e-6, rtol=0)
        args = argparse.Namespace(rounds=1, warmup=0, threads=1, device="cpu")
        monkeypatch.setattr("benchmarks.harness.peak_memory", lambda *_: 0)
        result = speech_loading.run(args)
    finally:
        speech_loading.folder.cache_clear()
    row = result["rows"][0]
    assert result["hours_a_minute"]["perception"] == pytest.approx(3 / 3600 / (row["median_cpu_s"] / 60))
    assert [r["limit"] for r in result["ratios"]] == [1.25, 1.25] and "hours of audio a minute" in result["notes"][1]

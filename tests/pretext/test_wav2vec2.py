"""The wav2vec 2.0 pretext against transformers' Wav2Vec2ForPreTraining, and what it must not look at."""

import numpy as np
import pytest
import torch
from tiny_speech import clips, public_config, shake, tiny

from perception.errors import ConfigError, DataError
from perception.layers.span_mask import hidden_places, sample_negatives
from perception.pretext.wav2vec2 import Wav2Vec2, split_public_state
from perception.registry import BACKBONES

SMALL = dict(entries=6, code_dim=12, project_dim=10, negatives=7, mask_length=3, min_spans=1, feature_drop=0.0)
LENGTHS = (8000, 5200, 6000)


def pair(norm="layer", **changes):
    backbone, pretext = tiny(norm), Wav2Vec2(**{**SMALL, **changes})
    pretext.attach(backbone)
    return backbone, pretext


def public(norm):
    from transformers import Wav2Vec2ForPreTraining

    torch.manual_seed(0)
    sizes = dict(num_codevectors_per_group=6, codevector_dim=12, proj_codevector_dim=10, feat_quantizer_dropout=0.0)
    return shake(Wav2Vec2ForPreTraining(public_config(norm, **sizes)))


def mask_and_negatives(backbone, batch, pretext):
    lengths = backbone.frame_lengths(batch["audio_length"])
    torch.manual_seed(1)
    mask = pretext.draw_mask(lengths, int(backbone.frame_lengths(torch.tensor(batch["audio"].shape[1]))))
    negatives = sample_negatives(mask, 7)
    # The same choice in transformers' form: frames of the flattened batch, for every frame.
    rows, _ = hidden_places(mask)
    places = [row.nonzero().flatten() for row in mask]
    whole = torch.zeros(*mask.shape, 7, dtype=torch.long)
    flat = torch.stack([places[r][n] + r * mask.shape[1] for r, n in zip(rows.tolist(), negatives, strict=True)])
    whole[mask] = flat
    return mask, negatives, whole


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("variant", ["fairseq", "transformers"])
@pytest.mark.parametrize("training", [False, True])
def test_losses_and_gradients_are_transformers(norm, variant, training, monkeypatch):
    def without_noise(logits, tau, hard):
        soft = (logits / tau).softmax(-1)
        return torch.nn.functional.one_hot(soft.argmax(-1), soft.shape[-1]) - soft.detach() + soft

    theirs = public(norm).train(training)
    # Only layer norm is trained with masks of the padding; group norm compares clips of one length.
    batch = clips(*(LENGTHS if norm == "layer" else (8000,) * 3))
    backbone, pretext = pair(norm, mask_variant=variant, total="transformers")
    encoder_state, pretext_state = split_public_state(theirs.state_dict())
    backbone.load_state_dict(encoder_state)
    missing, unexpected = pretext.load_state_dict(pretext_state, strict=False)
    assert missing == ["quantizer.updates"] and not unexpected
    backbone.train(training), pretext.train(training)
    if training:  # the noise is drawn for other frames than theirs, so neither has any
        monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", without_noise)
        monkeypatch.setattr(torch.Tensor, "exponential_", lambda self, **_: self.fill_(1.0))
    mask, negatives, whole = mask_and_negatives(backbone, batch, pretext)
    seen = (torch.arange(8000) < batch["audio_length"][:, None]).long() if norm == "layer" else None
    out = theirs(batch["audio"], attention_mask=seen, mask_time_indices=mask, sampled_negative_indices=whole)
    frames = pretext.run(backbone, batch, mask)
    found = pretext.losses(frames, negatives)
    count = mask.sum()
    torch.testing.assert_close(frames.context, out.projected_states[mask], atol=1e-4, rtol=0)
    torch.testing.assert_close(frames.targets, out.projected_quantized_states[mask], atol=1e-4, rtol=0)
    torch.testing.assert_close(found["contrast"], out.contrastive_loss / count, atol=1e-4, rtol=0)
    torch.testing.assert_close(found["diversity"], out.diversity_loss / count, atol=1e-4, rtol=0)
    torch.testing.assert_close(found["loss"], out.loss / count, atol=1e-4, rtol=0)
    found["loss"].backward()
    (out.loss / count).backward()
    other = {k.removeprefix("wav2vec2."): p.grad for k, p in theirs.named_parameters()}
    compared = 0
    for name, parameter in [*backbone.named_parameters(), *pretext.named_parameters()]:
        if parameter.grad is not None and other[name] is not None:
            torch.testing.assert_close(parameter.grad, other[name], atol=2e-4, rtol=2e-3, msg=name)
            compared += 1
    assert compared >= 60


def test_fairseq_total_is_that_of_its_parts():
    torch.manual_seed(0)
    backbone, pretext = pair(penalty_weight=10.0, diversity_weight=0.1)
    batch = clips(*LENGTHS)
    frames = pretext.run(backbone, batch)
    found = pretext.losses(frames, sample_negatives(frames.mask, 7))
    z = backbone.convolve(batch["audio"], batch["audio_length"])
    real = backbone.frame_mask(batch, z.shape[1])
    torch.testing.assert_close(found["penalty"], z[real].square().mean())  # padding does not count
    expected = found["contrast"] + 0.1 * found["diversity"] + 10 * found["penalty"]
    torch.testing.assert_close(found["loss"], expected)
    assert 2 <= found["perplexity"] <= 12 and 2 <= found["code_perplexity"] <= 12
    assert 0 <= found["accuracy"] <= 1 and found["gumbel_temperature"] == 2.0
    assert [key for key in found if "loss" in key] == ["loss"]


@torch.no_grad()
def test_the_context_never_sees_what_is_hidden():
    torch.manual_seed(0)
    backbone, pretext = pair()
    backbone.eval(), pretext.eval()
    batch = clips(8000)
    frames = backbone.frame_lengths(torch.tensor(8000))
    mask = torch.zeros(1, int(frames), dtype=torch.bool)
    mask[0, 8:14] = True
    changed = batch["audio"].clone()
    # Frame t reads samples 320 t ... 320 t + 399: nothing outside of frames 8 to 13 reads these.
    changed[0, 8 * 320 + 80 : 14 * 320] = 3 * torch.randn(14 * 320 - 8 * 320 - 80)
    runs = [pretext.run(backbone, {"audio": audio}, mask) for audio in (batch["audio"], changed)]
    torch.testing.assert_close(runs[0].context, runs[1].context, atol=1e-6, rtol=0)
    assert (runs[0].targets - runs[1].targets).abs().max() > 1e-2
    shown = changed.clone()
    shown[0, 20 * 320 : 21 * 320] += 1.0
    assert (pretext.run(backbone, {"audio": shown}, mask).context - runs[0].context).abs().max() > 1e-4


def test_only_what_the_loss_reads_is_projected_and_quantised(monkeypatch):
    torch.manual_seed(0)
    backbone, pretext = pair()
    batch = clips(*LENGTHS)
    sizes = {}
    project, quantize = backbone.project, pretext.quantizer.forward
    monkeypatch.setattr(backbone, "project", lambda x: (sizes.update(shown=x.shape[1]), project(x))[1])
    monkeypatch.setattr(pretext.quantizer, "forward", lambda x: (sizes.update(hidden=len(x)), quantize(x))[1])
    mask = pretext.run(backbone, batch).mask
    real = int(backbone.frame_lengths(batch["audio_length"]).sum())
    assert sizes == {"hidden": int(mask.sum()), "shown": real - int(mask.sum())}


def test_padding_changes_no_loss():
    torch.manual_seed(0)
    for norm in ("group", "layer"):
        backbone, pretext = pair(norm)
        backbone.eval(), pretext.eval()
        batch = clips(*LENGTHS)
        mask, negatives, _ = mask_and_negatives(backbone, batch, pretext)
        longer = {**batch, "audio": torch.nn.functional.pad(batch["audio"], (0, 3200))}
        wide = torch.nn.functional.pad(mask, (0, 10))
        with torch.no_grad():
            one = pretext.losses(pretext.run(backbone, batch, mask), negatives)
            two = pretext.losses(pretext.run(backbone, longer, wide), negatives)
        torch.testing.assert_close(one["loss"], two["loss"], atol=1e-4, rtol=0)


def test_steps_learn_and_the_temperature_is_in_the_checkpoint():
    torch.manual_seed(0)
    backbone, pretext = pair("layer", gumbel_decay=0.99)
    batch = clips(*LENGTHS)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *pretext.parameters()], lr=2e-3)
    values = []
    for step in range(60):
        pretext.before_step(step, 60)
        loss = pretext(backbone, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert np.mean(values[-10:]) < np.mean(values[:10]) - 0.3
    _, other = pair()
    other.load_state_dict(pretext.state_dict())
    assert int(other.quantizer.updates) == 59
    assert pretext.quantizer.temperature == pytest.approx(2 * 0.99**59)


def test_pictures_repeat_and_leave_modes_and_random_numbers_alone():
    torch.manual_seed(0)
    backbone, pretext = pair()
    pretext.train()
    before = torch.get_rng_state()
    one, two = (pretext.pictures(backbone, clips(*LENGTHS))["wav2vec2_similarity"] for _ in range(2))
    assert one.dtype == np.uint8 and one.ndim == 3 and one.shape[2] == 3 and np.array_equal(one, two)
    assert pretext.training and torch.equal(before, torch.get_rng_state())


def test_faults_are_named():
    backbone, pretext = pair(mask_length=10)
    with pytest.raises(DataError, match="clip 1 of the batch has 2 frames"):
        pretext(backbone, clips(8000, 800))
    with pytest.raises(ConfigError, match="needs a SpeechEncoder"):
        Wav2Vec2().attach(
            BACKBONES.build(dict(type="ViT", image_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2))
        )
    for changes, message in (
        (dict(mask_variant="fair"), "'fairseq'"),
        (dict(code_dim=255), "does not divide code_dim = 255"),
        (dict(mask_probability=0.0), r"\(0, 1\]"),
        (dict(negatives=0), "at least 1"),
        (dict(temperature=0.0), "positive"),
        (dict(total="paper"), "fairseq, transformers"),
    ):
        with pytest.raises(ConfigError, match=message):
            Wav2Vec2(**changes)

"""SpeechEncoder against transformers' three architectures, and what padding must not change."""

from itertools import pairwise

import pytest
import torch
from tiny_speech import clips, public, public_config, shake, tiny

from perception.backbones.speech_config import KERNELS, PRESETS, STRIDES
from perception.backbones.speech_encoder import SpeechEncoder
from perception.errors import CheckpointError, ConfigError, DataError

LENGTHS = (4000, 2961, 700)
CASES = [(a, n) for a in ("wav2vec2", "hubert", "wavlm") for n in ("group", "layer")]


@pytest.mark.parametrize(("architecture", "norm"), CASES)
def test_hidden_states_are_transformers(architecture, norm):
    torch.manual_seed(0)
    theirs = shake(public(norm, architecture))
    ours = tiny(norm, architecture).eval()
    ours.load_state_dict(theirs.state_dict())  # strict: the keys are theirs
    theirs.load_state_dict(ours.state_dict())
    audio = clips(4000, 4000)["audio"]
    with torch.no_grad():
        expected = theirs(audio, output_hidden_states=True)
        found, mask = ours.states({"audio": audio})
    assert mask is None and len(found) == 4
    torch.testing.assert_close(found[-1], expected.last_hidden_state, atol=1e-4, rtol=0)
    for mine, other in zip(found[:-1], expected.hidden_states[:-1], strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=0)
    assert expected.last_hidden_state.std() > 0.1


@pytest.mark.parametrize("architecture", ["wav2vec2", "hubert", "wavlm"])
def test_padded_batches_are_transformers_with_its_mask(architecture):
    torch.manual_seed(0)
    theirs, ours = shake(public("layer", architecture)), tiny("layer", architecture).eval()
    ours.load_state_dict(theirs.state_dict())
    batch = clips(*LENGTHS)
    seen = torch.arange(4000) < batch["audio_length"][:, None]
    with torch.no_grad():
        expected = theirs(batch["audio"], attention_mask=seen.long()).last_hidden_state
        found, mask = ours.states(batch)
    torch.testing.assert_close(found[-1][mask], expected[mask], atol=1e-4, rtol=0)


def test_zeros_of_the_padding_count_as_in_transformers_without_a_mask():
    torch.manual_seed(0)
    theirs, ours = shake(public("group")), tiny("group", padding="zeros").eval()
    ours.load_state_dict(theirs.state_dict())
    batch = clips(*LENGTHS)
    with torch.no_grad():
        expected = theirs(batch["audio"]).last_hidden_state
        found, _ = ours.states(batch)
        pooled = ours.encode(batch)
    torch.testing.assert_close(found[-1], expected, atol=1e-4, rtol=0)
    counts = ours.frame_lengths(batch["audio_length"]).tolist()
    means = torch.stack([row[:count].mean(0) for row, count in zip(expected, counts, strict=True)])
    torch.testing.assert_close(pooled, means, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("architecture", "norm"), CASES)
def test_a_clip_is_the_same_alone_and_in_a_batch(architecture, norm):
    torch.manual_seed(0)
    model = shake(tiny(norm, architecture, weighted_layers=True)).eval()
    batch = clips(*LENGTHS)
    noisy = {**batch, "audio": batch["audio"] + (torch.arange(4000) >= batch["audio_length"][:, None]) * 5.0}
    names = ("pooled", "block-0", "block-2", "segments", "segments-1")
    with torch.no_grad():
        together, disturbed = model.encode_features(batch, names), model.encode_features(noisy, names)
        for row, length in enumerate(LENGTHS):
            alone = {"audio": batch["audio"][row : row + 1, :length]}
            for name in names:
                expected = model.encode(alone, name)[0]
                torch.testing.assert_close(together[name][row], expected, atol=1e-4, rtol=0)
                torch.testing.assert_close(disturbed[name][row], expected, atol=1e-4, rtol=0)


def test_segments_are_means_over_eight_equal_parts():
    torch.manual_seed(0)
    model = tiny().eval()
    batch = clips(320 * 23 + 80, 320 * 7 + 80, 320 * 3 + 80)  # 23, 7 and 3 frames
    with torch.no_grad():
        (_, first, _, last), mask = model.states(batch)
        found = model.encode_features(batch, ("segments-0", "segments"))
    assert mask.sum(dim=1).tolist() == [23, 7, 3] and model.feature_dims("segments-0") == 8 * model.feature_dims()
    for name, states in (("segments-0", first), ("segments", last)):
        assert found[name].shape == (3, 8 * 32)
        torch.testing.assert_close(found[name], model.encode(batch, name))
        # 23 frames: parts begin at 0, 2, 5, 8, 11, 14, 17, 20.
        bounds = (0, 2, 5, 8, 11, 14, 17, 20, 23)
        parts = [states[0, a:b].mean(0) for a, b in pairwise(bounds)]
        torch.testing.assert_close(found[name][0], torch.cat(parts), atol=1e-5, rtol=1e-4)
        # Fewer frames than parts are repeated.
        for row, order in ((1, (0, 0, 1, 2, 3, 4, 5, 6)), (2, (0, 0, 0, 1, 1, 1, 2, 2))):
            torch.testing.assert_close(found[name][row], states[row, list(order)].flatten(), atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match="segments-2"):
        model.encode(batch, "segments-3")


def test_zeros_do_change_a_clip_of_the_group_norm():
    torch.manual_seed(0)
    model, batch = tiny("group", padding="zeros").eval(), clips(4000, 700)
    with torch.no_grad():
        alone = model.encode({"audio": batch["audio"][1:, :700]})
        assert (model.encode(batch)[1] - alone[0]).abs().max() > 1e-3


def test_frames_of_every_length_are_those_of_the_convolutions():
    model = tiny()
    samples = torch.arange(400, 48001)
    expected = []
    for n in samples.tolist():
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            n = len(range(0, n - kernel + 1, stride))  # the places where a kernel fits
        expected.append(n)
    assert model.frame_lengths(samples).tolist() == expected
    table = {400: 1, 720: 2, 1600: 4, 8000: 24, 16000: 49, 32000: 99, 48000: 149, 250000: 781, 320000: 999}
    assert model.frame_lengths(torch.tensor([*table])).tolist() == [*table.values()]
    assert model.frame_lengths(torch.tensor([0, 9, 399])).tolist() == [0, 0, 0]
    for length in (400, 719, 720, 1999):
        assert model.convolve(torch.randn(1, length)).shape[1] == int(model.frame_lengths(torch.tensor(length)))


def test_short_clips_are_named():
    with pytest.raises(DataError, match="399 samples are shorter than one frame of 400"):
        tiny().encode(clips(399))
    with pytest.raises(DataError, match="clip 1 of the batch has 399 samples"):
        tiny().encode(clips(800, 399))


def test_layer_weights_start_as_the_mean_of_all_states_and_learn():
    torch.manual_seed(0)
    model = tiny(weighted_layers=True).eval()
    batch = clips(4000, 4000)
    states, _ = model.states(batch)
    pooled = model.encode(batch)
    torch.testing.assert_close(pooled, torch.stack(states).mean(0).mean(1), atol=1e-5, rtol=1e-4)
    pooled.square().sum().backward()
    assert model.layer_weights.grad.abs().max() > 0
    with torch.no_grad():
        model.layer_weights.copy_(torch.tensor([0.0, 100.0, 0.0, 0.0]))
        torch.testing.assert_close(model.encode(batch), model.encode(batch, "block-0"), atol=1e-5, rtol=1e-4)
    # Weights of a model without them load; theirs are not touched.
    plain = tiny()
    model.load_state_dict(model.adapt_state(plain.state_dict()))
    assert model.layer_weights[1] == 100


def test_gradient_of_the_convolutions_is_scaled_and_stopped():
    torch.manual_seed(0)
    one, tenth = (tiny("group", conv_gradient=f) for f in (1.0, 0.1))
    tenth.load_state_dict(one.state_dict())
    for model in (one, tenth):
        model.encode(clips(2000)).square().sum().backward()
    for (name, a), (_, b) in zip(one.named_parameters(), tenth.named_parameters(), strict=True):
        if a.grad is not None:
            factor = 0.1 if name.startswith("feature_extractor.") else 1.0
            torch.testing.assert_close(b.grad, a.grad * factor, msg=name)
    frozen = tiny(freeze_convs=True)
    frozen.encode(clips(2000)).square().sum().backward()
    for name, parameter in frozen.named_parameters():
        if name != "masked_spec_embed":
            assert (parameter.grad is None) == name.startswith("feature_extractor."), name


def test_layer_drop_leaves_out_layers_in_training_only():
    torch.manual_seed(0)
    model, batch = tiny("group", layer_drop=0.999), clips(2000)
    states, _ = model.train().states(batch)
    assert all(torch.equal(state, states[0]) for state in states[1:])
    states, _ = model.eval().states(batch)
    assert not torch.equal(states[0], states[1])


def test_weights_of_task_models_and_old_names_load(tmp_path):
    from transformers import Wav2Vec2ForSequenceClassification

    torch.manual_seed(0)
    task = shake(Wav2Vec2ForSequenceClassification(public_config("group"))).eval()
    state = {
        k.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): v
        for k, v in task.state_dict().items()
    }
    assert any(k.endswith("weight_g") for k in state)
    ours = tiny("group").eval()
    ours.load_state_dict(ours.adapt_state(state))
    audio = clips(3000)["audio"]
    with torch.no_grad():
        torch.testing.assert_close(
            ours.states({"audio": audio})[0][-1], task.wav2vec2(audio).last_hidden_state, atol=1e-4, rtol=0
        )
    task.save_pretrained(tmp_path / "public")
    loaded = tiny("group", pretrained=str(tmp_path / "public"))
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), ours.state_dict().values(), strict=True))
    with pytest.raises(CheckpointError):
        tiny("layer", pretrained=str(tmp_path / "public"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        tiny("group", pretrained=str(tmp_path / "empty"))
    assert SpeechEncoder.bare_config({"pretrained": "x"}) == {"pretrained": None}


def test_maps_and_features():
    model, batch = tiny(out_indices=(0, -1)).eval(), clips(4000, 2000)
    maps = model(batch["audio"])
    assert [m.shape for m in maps] == [(2, 32, 12), (2, 32, 12)] and model.strides == (320, 320)
    tokens, pooled = model.token_features(batch)
    assert tokens.shape == (2, 12, 32)
    torch.testing.assert_close(pooled, model.encode(batch))
    assert model.embed({**batch, "sample_rate": 16000}).shape == (2, 32)
    with pytest.raises(ConfigError, match="block-2"):
        model.encode(batch, "block-3")
    # Later layers are not part of an early feature.
    assert len(model.unused_parts("block-0")) == 4 and len(model.unused_parts()) == 1
    assert model.layer_id("encoder.layers.2.attention.k_proj.weight") == 3 and model.layer_count() == 5
    assert model.layer_id("feature_extractor.conv_layers.0.conv.weight") == 0


def test_presets_have_the_published_sizes():
    with torch.device("meta"):
        base, large = SpeechEncoder(preset="base"), SpeechEncoder(preset="large")
    assert sum(p.numel() for p in base.parameters()) == 94_371_712
    assert sum(p.numel() for p in large.parameters()) == 315_438_720
    assert (base.conv_gradient, large.conv_gradient) == (0.1, 1.0)
    assert base.preprocess.normalize == "none" and large.preprocess.normalize == "utterance"
    assert PRESETS["xls-r-1b"]["embed_dim"] == 1280 and PRESETS["xls-r-2b"]["embed_dim"] == 1920


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(architecture="wavlm2"), "'wavlm'"),
        (dict(preset="bass"), "'base'"),
        (dict(preset=None), "embed_dim.*must be given"),
        (dict(num_heads=5), "does not divide embed_dim"),
        (dict(norm="batch"), "group, layer"),
        (dict(out_indices=(12,)), "layers between"),
        (dict(conv_strides=(5, 2)), "as many"),
        (dict(layer_drop=1.0), r"\[0, 1\)"),
        (dict(padding="none"), "exact, zeros"),
    ],
)
def test_faults_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        SpeechEncoder(**changes)

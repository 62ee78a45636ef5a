"""Weights of CLIPs in and out: dialects, other grids and bands, activations, exports, open_clip's own folder."""

import importlib.util
import json
from pathlib import Path

import clip_models as models
import pytest
import torch
from torch.nn import functional as F

import perception
from perception.backbones.clip import CLIP
from perception.backbones.inflation import inflate
from perception.checkpoint import load_state, save_checkpoint
from perception.datasets.base import Dataset
from perception.errors import CheckpointError, ConfigError, PerceptionError
from perception.exporting import build_backbone, export_backbone, load_weights
from perception.layers.positions import resample_positions
from perception.registry import DATASETS

_TOOL = Path(__file__).parents[2] / "tools" / "convert_weights.py"
_SPEC = importlib.util.spec_from_file_location("convert_clip_weights", _TOOL)
assert _SPEC is not None and _SPEC.loader is not None
convert = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(convert)


def raw(size=32, count=2, bands=3):
    return torch.randint(256, (count, bands, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def write_config(folder, model, **changes):
    backbone = dict(type="CLIP", model=model, preprocess=models.record(model), **changes)
    (folder / "config.py").write_text(f"model = dict(backbone={backbone!r})\n")
    return str(folder / "config.py")


def make_run(folder, cfg):
    """A run folder of one step, as the engine leaves it."""
    torch.manual_seed(4)
    backbone = build_backbone(cfg).eval()
    meta = {
        "step": 1,
        "config": json.dumps({"model": {"type": "Pretrainer", "backbone": cfg}}),
        "preprocess": backbone.preprocess.record(),
    }
    state = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    save_checkpoint({"meta": meta, "state_dict": state}, folder / "checkpoints" / "step_00000001.pth")
    return backbone


DIALECTS = {
    "bare": lambda state: state,
    "data parallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "open_clip's checkpoint": lambda state: {
        "epoch": 3,
        "name": "run",
        "state_dict": {f"module.{k}": v for k, v in state.items()},
        "optimizer": {"state": {}},
    },
    "half precision, old buffers": lambda state: {
        **{k: v.half() for k, v in state.items()},
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(8),
        "vocab_size": torch.tensor(13),
        "logit_scale": state["logit_scale"].reshape(1),
    },
}


@pytest.mark.parametrize("dialect", list(DIALECTS))
def test_public_files_of_every_dialect_become_an_export(dialect, tmp_path, capsys):
    ours = models.build(models.VIT)
    public = models.theirs(models.VIT, ours, quick_gelu=True)
    torch.save(DIALECTS[dialect](public.state_dict()), tmp_path / "public.pt")
    config = write_config(tmp_path, models.VIT, quick_gelu=True)
    assert convert.main([str(tmp_path / "public.pt"), config, "--out", str(tmp_path / "out")]) == 0
    assert "left out: nothing" in capsys.readouterr().out
    found = perception.load_backbone(tmp_path / "out")
    with torch.no_grad():
        expected = public.encode_image(found.preprocess({"image": raw()})["image"])
        tolerance = 2e-2 if "half" in dialect else 1e-5
        torch.testing.assert_close(found.embed({"image": raw()}), expected, atol=tolerance, rtol=tolerance)
        texts = public.encode_text(models.whole_context(found, models.TEXTS))
        torch.testing.assert_close(found.embed_text(models.TEXTS), texts, atol=tolerance, rtol=tolerance)


def test_an_xlm_r_with_position_ids_loads(tmp_path):
    ours = models.build(models.HF)
    public = models.theirs(models.HF, ours)
    state = {**public.state_dict(), "text.transformer.embeddings.position_ids": torch.arange(40)[None]}
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    config = write_config(tmp_path, models.HF, quick_gelu=False)
    convert.main([str(tmp_path / "open_clip_pytorch_model.bin"), config, "--out", str(tmp_path / "out")])
    found = perception.load_backbone(tmp_path / "out")
    with torch.no_grad():
        expected = public.encode_text(models.whole_context(found, models.TEXTS))
    torch.testing.assert_close(found.embed_text(models.TEXTS), expected, atol=1e-5, rtol=1e-5)


def test_the_text_tower_moves_into_its_module_and_out_of_it():
    nested_model = {**models.VIT, "custom_text": True}
    flat, nested = models.build(models.VIT), models.build(nested_model, seed=1)
    assert "text.ln_final.weight" in nested.state_dict() and "ln_final.weight" in flat.state_dict()
    load_state(nested, flat.state_dict(), "the flat one")
    torch.testing.assert_close(nested.embed_text(models.TEXTS), flat.embed_text(models.TEXTS))
    again = models.build(models.VIT, seed=2)
    load_state(again, nested.state_dict(), "the nested one")
    torch.testing.assert_close(again.embed_text(models.TEXTS), flat.embed_text(models.TEXTS))


def test_positions_of_another_grid_are_resampled_as_open_clip_does():
    from open_clip.model import resize_pos_embed

    small = models.build(models.VIT)
    large = models.build(models.VIT, preprocess={**models.record(models.VIT), "size": 48})
    state = small.state_dict()
    load_state(large, state, "a model of 32 pixels")
    expected = dict(state)
    resize_pos_embed(expected, large)
    torch.testing.assert_close(large.visual.positional_embedding, expected["visual.positional_embedding"])
    assert torch.equal(large.visual.positional_embedding[0], small.visual.positional_embedding[0])
    same = resample_positions(small.visual.positional_embedding[None], (4, 4), (4, 4), 1)
    assert torch.equal(same[0], small.visual.positional_embedding)


def test_a_shorter_context_keeps_the_embedding_of_texts_that_fit_and_a_longer_one_is_stretched():
    usual = models.build(models.VIT)
    short = models.build(models.VIT, preprocess=models.record(models.VIT, models.words(5)))
    load_state(short, usual.state_dict(), "a context of 8")
    texts = ["a river", "forest of trees"]
    torch.testing.assert_close(short.embed_text(texts), usual.embed_text(texts))
    longer = models.build(models.VIT, preprocess=models.record(models.VIT, models.words(16)))
    load_state(longer, usual.state_dict(), "a context of 8")
    flat = usual.positional_embedding.T[None]
    torch.testing.assert_close(longer.positional_embedding, F.interpolate(flat, size=16, mode="linear")[0].T)


def test_a_clip_goes_on_as_a_siglip_with_a_bias_of_its_own():
    with_bias = models.build({**models.VIT, "init_logit_bias": -10})
    load_state(with_bias, models.build(models.VIT).state_dict(), "a CLIP")
    assert with_bias.logit_bias.item() == -10
    with pytest.raises(CheckpointError, match="logit_bias"):
        load_state(models.build(models.VIT), with_bias.state_dict(), "a SigLIP")


def test_a_missing_weight_is_named(tmp_path):
    state = models.build(models.VIT).state_dict()
    del state["visual.transformer.resblocks.1.mlp.c_fc.bias"]
    torch.save(state, tmp_path / "cut.pt")
    config = write_config(tmp_path, models.VIT, quick_gelu=False)
    with pytest.raises(CheckpointError, match=r"resblocks\.1\.mlp\.c_fc\.bias"):
        convert.main([str(tmp_path / "cut.pt"), config, "--out", str(tmp_path / "out")])


# The activation, which is in no file of weights.


def test_public_weights_need_an_activation_that_somebody_chose(tmp_path):
    torch.save(models.build(models.VIT).state_dict(), tmp_path / "public.pt")
    config = write_config(tmp_path, models.VIT)
    with pytest.raises(CheckpointError, match="set quick_gelu=True"):
        convert.main([str(tmp_path / "public.pt"), config, "--out", str(tmp_path / "out")])
    with pytest.raises(CheckpointError, match="does not record its activation"):
        load_weights(models.build(models.VIT), tmp_path / "public.pt")
    load_weights(models.build(models.VIT, quick_gelu=False), tmp_path / "public.pt")


def test_an_activation_is_recorded_and_another_one_is_an_error(tmp_path):
    cfg = dict(type="CLIP", model=models.VIT, quick_gelu=True, preprocess=models.record(models.VIT))
    trained = make_run(tmp_path / "run", cfg)
    export_backbone(tmp_path / "run", tmp_path / "export")
    assert json.loads((tmp_path / "export" / "backbone.json").read_text())["config"]["quick_gelu"] is True
    for source in ("run", "export"):
        with pytest.raises(CheckpointError, match="quick_gelu: True there, False here"):
            build_backbone({**cfg, "quick_gelu": False, "init_from": str(tmp_path / source)})
        again = build_backbone({**cfg, "init_from": str(tmp_path / source)})
        assert torch.equal(again.embed({"image": raw()}), trained.embed({"image": raw()}))


@pytest.mark.parametrize(
    ("tower", "changes", "told"),
    [
        ("vision_cfg", dict(head_width=8), "head_width: 16 there, 8 here"),
        ("text_cfg", dict(heads=4), "heads: 2 there, 4 here"),
        ("text_cfg", dict(no_causal_mask=True), "no_causal_mask"),
        ("vision_cfg", dict(norm_kwargs=dict(eps=1e-6)), "norm_kwargs"),
    ],
)
def test_what_no_shape_shows_is_compared(tower, changes, told, tmp_path):
    cfg = dict(type="CLIP", model=models.VIT, preprocess=models.record(models.VIT))
    make_run(tmp_path / "run", cfg)
    other = {**models.VIT, tower: {**models.VIT[tower], **changes}}
    with pytest.raises(CheckpointError, match=told):
        build_backbone({**cfg, "model": other, "init_from": str(tmp_path / "run")})


# More bands than three.

S2 = ("B02", "B03", "B04", "B08", "B11")


def multispectral(size=32):
    return models.record(models.VIT, size=size, bands=S2, mean=(0.1,) * 5, std=(0.1,) * 5, value_scale=10000.0)


def test_inflation_keeps_the_response_to_grey_and_the_colours_by_name():
    weight = torch.randn(6, 3, 2, 2)
    wide = inflate(weight, S2)
    assert wide.shape == (6, 5, 2, 2)
    torch.testing.assert_close(wide.sum(dim=1), weight.sum(dim=1))
    for place, colour in ((2, 0), (1, 1), (0, 2)):  # red, green, blue of the file are bands 4, 3, 2
        torch.testing.assert_close(wide[:, place], weight[:, colour] * 3 / 5)
    torch.testing.assert_close(wide[:, 3], weight.mean(dim=1) * 3 / 5)
    torch.testing.assert_close(inflate(weight, ("vv", "vh"))[:, 0], weight.mean(dim=1) * 3 / 2)
    torch.testing.assert_close(inflate(weight, ("blue", "red", "green")), weight[:, [2, 0, 1]])


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm"])
def test_rgb_weights_start_a_model_of_five_bands(kind, tmp_path):
    model = models.KINDS[kind]
    size = model["vision_cfg"]["image_size"]
    cfg = dict(type="CLIP", model=model, preprocess=models.record(model))
    rgb = make_run(tmp_path / "run", cfg)
    wide = dict(cfg, in_channels=5, preprocess=multispectral(size), init_from=str(tmp_path / "run"))
    found = build_backbone(wide).eval()
    grey = torch.randn(2, 1, size, size)
    with torch.no_grad():
        torch.testing.assert_close(
            found.encode({"image": grey.expand(-1, 5, -1, -1)}),
            rgb.encode({"image": grey.expand(-1, 3, -1, -1)}),
            atol=1e-4,
            rtol=1e-4,
        )
    batch = {"image": torch.randint(10000, (2, 5, size, size)).to(torch.uint16), "meta": {"bands": S2}}
    swapped = {"image": batch["image"].float()[:, [4, 0, 1, 3, 2]], "meta": {"bands": ("B11", "B2", "B3", "B8", "red")}}
    assert torch.equal(found.embed(batch), found.embed(swapped))


def test_other_texts_are_still_an_error_for_more_bands(tmp_path):
    cfg = dict(type="CLIP", model=models.VIT, preprocess=models.record(models.VIT))
    make_run(tmp_path / "run", cfg)
    record = {**multispectral(), "tokenizer": dict(models.words(), words=[*models.WORDS[:-1], "lake"])}
    with pytest.raises(CheckpointError, match="they part at entry 9: 'trees' there, 'lake' here"):
        build_backbone(dict(cfg, in_channels=5, preprocess=record, init_from=str(tmp_path / "run")))


# Exports.


class Captioned(Dataset):
    modality = "image"

    def __init__(self):
        super().__init__()
        self.captions = [[("en", text) for text in models.TEXTS], [("en", "a river")], [("en", "a river again")]]

    def __len__(self):
        return 3

    def fetch(self, indices):
        raise NotImplementedError


def test_an_export_gives_images_and_texts_from_the_folder_alone(tmp_path):
    tokenizer = dict(type="WordTokenizer", fit=dict(type="CaptionedToy"), min_count=2, context_length=8)
    cfg = dict(type="CLIP", model=models.VIT, preprocess=models.record(models.VIT, tokenizer))
    DATASETS.register_module(name="CaptionedToy", module=Captioned, force=True)
    try:
        trained = make_run(tmp_path / "run", cfg)
        export_backbone(tmp_path / "run", tmp_path / "export")
    finally:
        DATASETS._module_dict.pop("CaptionedToy")
    with pytest.raises((ConfigError, KeyError)):
        build_backbone(cfg)  # the data is gone
    record = json.loads((tmp_path / "export" / "backbone.json").read_text())
    assert record["preprocess"]["tokenizer"]["words"] == ["a", "of", "river", "many"]
    assert record["config"]["preprocess"]["tokenizer"] == record["preprocess"]["tokenizer"]
    for source in ("export", "run"):
        again = perception.load_backbone(tmp_path / source)
        assert torch.equal(again.embed({"image": raw()}), trained.embed({"image": raw()}))
        assert torch.equal(again.embed_text(models.TEXTS), trained.embed_text(models.TEXTS))


# Back to open_clip.


@pytest.mark.parametrize("kind", ["vit", "resnet", "xlm_r", "timm", "unusual"])
def test_open_clip_reads_our_folder(kind, tmp_path, capsys):
    import open_clip

    model = models.KINDS[kind]
    cfg = dict(
        type="CLIP", model=model, quick_gelu=kind == "vit", preprocess=models.record(model, mean=(0.4, 0.5, 0.6))
    )
    trained = make_run(tmp_path / "run", cfg)
    assert convert.main([str(tmp_path / "run"), "--to-open-clip", "--out", str(tmp_path / "out")]) == 0
    assert f"local-dir:{tmp_path / 'out'}" in capsys.readouterr().out
    public = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    assert tuple(public.visual.image_mean) == (0.4, 0.5, 0.6)
    size = model["vision_cfg"]["image_size"]
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(public.encode_image(x), trained.encode({"image": x}), atol=1e-5, rtol=1e-5)
        texts = public.encode_text(models.whole_context(trained, models.TEXTS))
    torch.testing.assert_close(texts, trained.embed_text(models.TEXTS), atol=1e-5, rtol=1e-5)
    with pytest.raises(PerceptionError, match="exists"):
        convert.main([str(tmp_path / "run"), "--to-open-clip", "--out", str(tmp_path / "out")])
    if kind != "xlm_r":  # and we read it, too
        again = CLIP(f"local-dir:{tmp_path / 'out'}", preprocess=trained.preprocess)
        load_state(again, public.state_dict(), "the folder")
        assert torch.equal(again.embed_text(models.TEXTS), trained.embed_text(models.TEXTS))


def test_open_clip_knows_no_other_bands_and_the_error_says_so(tmp_path):
    make_run(tmp_path / "run", dict(type="CLIP", model=models.VIT, in_channels=5, preprocess=multispectral()))
    with pytest.raises(PerceptionError, match="RGB of 8 bits"):
        convert.main([str(tmp_path / "run"), "--to-open-clip", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()

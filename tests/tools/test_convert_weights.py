"""Public weights become an export with the same outputs."""

import importlib.util
from pathlib import Path

import pytest
import torch

import perception
from perception.errors import CheckpointError

_TOOL = Path(__file__).parents[2] / "tools" / "convert_weights.py"
_SPEC = importlib.util.spec_from_file_location("convert_weights", _TOOL)
assert _SPEC is not None and _SPEC.loader is not None
convert = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(convert)

CONFIG = """
model = dict(
    backbone=dict(
        type="ViT", image_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, position="learned",
        preprocess=dict(type="ImagePreprocess", size=16),
    )
)
"""


@pytest.fixture
def weights(tmp_path):
    timm = pytest.importorskip("timm")
    model = timm.models.VisionTransformer(16, 4, embed_dim=32, depth=2, num_heads=2, num_classes=5).eval()
    torch.nn.init.normal_(model.pos_embed)
    torch.save({"model": model.state_dict()}, tmp_path / "public.pth")
    (tmp_path / "config.py").write_text(CONFIG)
    return model, tmp_path


def test_timm_weights_give_timm_tokens(weights, capsys):
    model, folder = weights
    assert convert.main([str(folder / "public.pth"), str(folder / "config.py"), "--out", str(folder / "out")]) == 0
    assert "left out: head.bias, head.weight" in capsys.readouterr().out
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = model.forward_features(images)
        found = perception.load_backbone(folder / "out").forward_tokens(images)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_missing_weight_is_named(weights):
    model, folder = weights
    state = model.state_dict()
    del state["blocks.1.attn.qkv.weight"]
    torch.save(state, folder / "cut.pth")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.qkv\.weight"):
        convert.main([str(folder / "cut.pth"), str(folder / "config.py"), "--out", str(folder / "out")])
    assert not (folder / "out").exists()

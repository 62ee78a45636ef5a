"""ImageText on a stand-in and on CLIP: the invariants of the card that concern images and texts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_towers import LOCAL, SIZE, TEXTS, TwoTowers, raw_batch, tiny_clip, tiny_vit

from perception.engine.pretrainer import Pretrainer
from perception.errors import ConfigError, DataError
from perception.pretext.image_text import ImageText
from perception.pretext.self_distillation import SelfDistillation
from perception.pretext.shared import encode_views, with_memo

ENCODERS = [TwoTowers, tiny_clip]


def attached(backbone, **options):
    pretext = ImageText(**options)
    pretext.attach(backbone)
    return pretext


def softmax_loss(backbone, batch, view, targets=None):
    """Both cross-entropies from the card's formula, out of the embeddings of one view."""
    z = F.normalize(backbone.encode({"image": view}), dim=1)
    t = F.normalize(backbone.encode_text(batch), dim=1)
    logits = backbone.logit_scale.exp() * z @ t.T
    targets = torch.eye(len(z)) if targets is None else targets
    rows, columns = logits.log_softmax(1), logits.log_softmax(0)
    return -((targets * rows).sum(1).mean() + (targets * columns).sum(0).mean()) / 2


@pytest.mark.parametrize("build", ENCODERS)
def test_loss_is_cross_entropy_of_normalised_embeddings_in_both_directions(build):
    backbone = build().eval()
    batch = backbone.preprocess(raw_batch())
    losses = attached(backbone)(backbone, batch)
    torch.testing.assert_close(losses["loss"], softmax_loss(backbone, batch, batch["image"]))
    assert losses["logit_scale"].item() == pytest.approx(1 / 0.07)
    assert not losses["logit_scale"].requires_grad


@pytest.mark.parametrize("build", ENCODERS)
def test_every_global_view_meets_the_text(build):
    backbone = build().eval()
    batch = backbone.preprocess(raw_batch())
    loss = attached(backbone, views="globals")(backbone, batch)["loss"]
    parts = [softmax_loss(backbone, batch, view) for view in batch["views"][:2]]
    torch.testing.assert_close(loss, sum(parts) / 2)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_equal_texts_share_their_target(chunk_size):
    backbone = tiny_clip().eval()
    batch = backbone.preprocess(raw_batch())
    assert batch["text_hash"][0] == batch["text_hash"][2] and len(set(batch["text_hash"].tolist())) == 4
    targets = torch.eye(5)
    targets[[0, 2], [2, 0]] = targets[0, 0] = targets[2, 2] = 0.5
    loss = attached(backbone, targets="multi_positive", chunk_size=chunk_size)(backbone, batch)["loss"]
    torch.testing.assert_close(loss, softmax_loss(backbone, batch, batch["image"], targets))
    distinct = backbone.preprocess({**raw_batch(), "text": ["a", "b", "c", "d", "e"]})
    plain, spread = (attached(backbone, targets=t)(backbone, distinct)["loss"] for t in ("plain", "multi_positive"))
    assert plain.item() == spread.item()


def test_siglip_uses_the_backbone_s_bias_or_its_own():
    batch = tiny_clip().preprocess(raw_batch())
    for backbone in (tiny_clip().eval(), TwoTowers().eval()):
        pretext = attached(backbone, loss="siglip")
        assert [name for name, _ in pretext.named_parameters()] == ["logit_bias"]
        loss = pretext(backbone, batch)["loss"]
        z = F.normalize(backbone.encode(batch), dim=1)
        t = F.normalize(backbone.encode_text(batch), dim=1)
        logits = backbone.logit_scale.exp() * z @ t.T - 10.0
        signs = 2 * torch.eye(5) - 1
        torch.testing.assert_close(loss, -F.logsigmoid(signs * logits).sum() / 5)
        loss.backward()
        assert pretext.logit_bias.grad.abs() > 0
    with_bias = tiny_clip(init_logit_bias=-4.0)
    pretext = attached(with_bias, loss="siglip")
    assert pretext.logit_bias is None
    pretext(with_bias, batch)["loss"].backward()
    assert with_bias.logit_bias.grad.abs() > 0


@pytest.mark.parametrize("build", ENCODERS)
def test_scale_learns_and_stays_within_one_and_a_hundred(build):
    backbone = build()
    pretext = attached(backbone)
    batch = backbone.preprocess(raw_batch())
    ends = []
    for rate, uphill in ((1e6, False), (1e6, True), (1e-3, False)):
        with torch.no_grad():
            backbone.logit_scale.fill_(2.0)
        optimiser = torch.optim.SGD([backbone.logit_scale], lr=rate, maximize=uphill)
        optimiser.zero_grad()
        pretext(backbone, batch)["loss"].backward()
        assert backbone.logit_scale.grad.abs() > 0
        optimiser.step()
        pretext.after_step(backbone)
        ends.append(backbone.logit_scale.item())
    assert sorted(ends[:2]) == pytest.approx([0.0, math.log(100)])  # both ends hold
    assert 0.0 < ends[2] < math.log(100) and ends[2] != 2.0


@pytest.mark.parametrize("build", [tiny_clip])
def test_text_embedding_ignores_padding_and_neighbours(build):
    backbone = build().eval()
    alone = backbone.encode_text(backbone.preprocess({"text": [TEXTS[0]]}))
    among = backbone.encode_text(backbone.preprocess({"text": [TEXTS[3], TEXTS[0], TEXTS[1]]}))[1:2]
    torch.testing.assert_close(alone, among, atol=1e-5, rtol=1e-5)
    batch = backbone.preprocess({"text": [TEXTS[0]]})
    wide = {
        "text": F.pad(batch["text"], (0, 9), value=backbone.preprocess.tokenizer.pad_id),
        "text_mask": F.pad(batch["text_mask"], (0, 9), value=False),
    }
    torch.testing.assert_close(backbone.encode_text(wide), alone, atol=1e-5, rtol=1e-5)


def both(backbone, feature=None, views="globals"):
    pretexts = {
        "clip": ImageText(views=views),
        "distil": SelfDistillation(prototypes=8, hidden_dim=12, bottleneck_dim=4, feature=feature),
    }
    return Pretrainer(backbone, pretexts)


@pytest.mark.parametrize("build", ENCODERS)
def test_gradients_go_where_they_must(build):
    backbone = build()
    model = both(backbone)
    batch = backbone.preprocess(raw_batch())
    losses = model(batch)
    assert set(losses) == {"clip.loss", "clip.logit_scale", "distil.loss", "distil.teacher_entropy"}
    named = dict(backbone.named_parameters())
    of_distil = torch.autograd.grad(losses["distil.loss"], list(named.values()), retain_graph=True, allow_unused=True)
    reached = {name for name, gradient in zip(named, of_distil, strict=True) if gradient is not None}
    text = {n for n in named if n.split(".")[0] in backbone.unused_by_encode}
    assert text and reached == set(named) - text  # the image tower, all of it, and nothing else
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in backbone.parameters())
    teacher = model.pretexts["distil"].teacher
    assert list(teacher.parameters()) == []
    assert all(not t.requires_grad and t.grad is None for t in teacher.state_dict(keep_vars=True).values())


@pytest.mark.parametrize("feature", [None, "pooled"])
@pytest.mark.parametrize("views", ["image", "globals"])
def test_a_view_is_encoded_once_a_step(feature, views):
    backbone = TwoTowers()
    model = both(backbone, feature, views)
    model(backbone.preprocess(raw_batch()))
    images = sum(shape[0] for shape in backbone.calls)
    assert images == 5 * (2 + 3)  # five views of five images, whatever the two pretexts ask for
    assert (15, 3, LOCAL, LOCAL) in backbone.calls  # the three local views in one batch
    if views == "globals":
        assert backbone.calls == [(10, 3, SIZE, SIZE), (15, 3, LOCAL, LOCAL)]
    assert model.pretexts["distil"].teacher["backbone"].calls == [(10, 3, SIZE, SIZE)]
    backbone.calls.clear()
    model(backbone.preprocess(raw_batch()))
    assert sum(shape[0] for shape in backbone.calls) == 25  # a new step, a new memory


def test_memory_belongs_to_one_forward_pass():
    backbone = tiny_vit()
    batch = backbone.preprocess(raw_batch(texts=False))
    first = encode_views(backbone, batch, which="all")
    with torch.no_grad():
        backbone.norm.bias.add_(1.0)
    assert not torch.equal(encode_views(backbone, batch, which="all"), first)
    scope = with_memo(batch)
    with torch.no_grad():
        frozen = encode_views(backbone, scope)
    assert not frozen.requires_grad and encode_views(backbone, scope).requires_grad
    assert encode_views(backbone, scope, "cls").shape == (1, 5, 16)
    assert not torch.equal(encode_views(backbone, scope, "cls"), encode_views(backbone, scope, "gap"))
    alone = [backbone.encode({"image": view}) for view in batch["views"]]
    torch.testing.assert_close(encode_views(backbone, batch, which="all"), torch.stack(alone), atol=1e-5, rtol=1e-5)


def test_views_of_one_size_are_told_apart_by_their_number():
    backbone = tiny_vit()
    views = [torch.randn(2, 3, SIZE, SIZE) for _ in range(4)]
    assert len(encode_views(backbone, {"views": views}, which="globals")) == 4
    assert len(encode_views(backbone, {"views": views, "global_views": 2}, which="globals")) == 2
    with pytest.raises(DataError, match="MultiCrop"):
        encode_views(backbone, {"image": views[0]}, which="globals")


def test_pairs_are_learned():
    backbone = tiny_clip()
    pretext = attached(backbone)
    batch = backbone.preprocess({**raw_batch(), "text": ["a", "b", "c", "d", "e"]})
    optimiser = torch.optim.AdamW(backbone.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = pretext(backbone, batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        pretext.after_step(backbone)
        losses.append(loss.item())
    assert losses[0] > 1.0 and losses[-1] < 0.1


def test_picture_shows_every_pair():
    backbone = tiny_clip()
    pretext = attached(backbone)
    batch = backbone.preprocess(raw_batch())
    picture = pretext.pictures(backbone, batch)["image_text_similarity"]
    cell, gap = 64, 2  # 16 pixels, enlarged
    assert picture.dtype == np.uint8 and picture.shape == (5 * (cell + gap) + gap, 6 * (cell + gap) + gap, 3)
    raw = raw_batch()["image"][1].permute(1, 2, 0).numpy()
    top = gap + cell + gap
    assert np.array_equal(picture[top : top + cell : 4, gap : gap + cell : 4], raw)
    with torch.no_grad():
        z, t = (F.normalize(x, dim=1) for x in (backbone.encode(batch), backbone.encode_text(batch)))
    best = (z @ t.T).flatten().argmax().item()
    centre = [gap + place * (cell + gap) + cell // 2 for place in (best // 5, best % 5 + 1)]
    assert picture[centre[0], centre[1]].tolist() == [253, 231, 37]  # the highest cosine is yellow
    assert pretext.pictures(backbone, {"image": batch["image"]}) == {}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(loss="clipp"), "nearest is 'clip'"),
        (dict(targets="multi"), "not one of plain, multi_positive"),
        (dict(views="all"), "not one of image, globals"),
        (dict(chunk_size=0), "at least 1"),
    ],
)
def test_impossible_settings_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        ImageText(**options)


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match="dual encoder with a text tower, such as CLIP, not ViT"):
        attached(tiny_vit())
    backbone = TwoTowers()
    batch = backbone.preprocess(raw_batch())
    del batch["text_hash"]
    with pytest.raises(DataError, match="text_hash"):
        attached(backbone, targets="multi_positive")(backbone, batch)

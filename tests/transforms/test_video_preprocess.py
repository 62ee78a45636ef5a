import numpy as np
import pytest
import torch

from perception.errors import CheckpointError, ConfigError, DataError
from perception.registry import PREPROCESSES
from perception.transforms.video_preprocess import VideoPreprocess


def raw(frames=4, size=(8, 12), batch=2):
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, frames, *size), dtype=torch.uint8, generator=random)


def record(**changes):
    return VideoPreprocess(**{**dict(size=(8, 12), frames=4, mean=(0.45,) * 3, std=(0.225, 0.25, 0.3)), **changes})


def test_normalises_every_channel_and_keeps_the_batch():
    clips = raw()
    batch = {"video": clips, "label": torch.tensor([1, 0])}
    before = clips.clone()
    out = record()(batch)
    expected = (clips.double() / 255 - 0.45) / torch.tensor([0.225, 0.25, 0.3]).double().view(3, 1, 1, 1)
    assert out["video"].dtype == torch.float32
    torch.testing.assert_close(out["video"].double(), expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(clips, before) and out["label"] is batch["label"]
    assert torch.equal(record().denormalize(out["video"]), clips)


def test_the_layout_of_transformers():
    clips = raw()
    swapped = record(layout="tchw")({"video": clips.transpose(1, 2)})["video"]
    assert torch.equal(swapped, record()({"video": clips})["video"])
    with pytest.raises(DataError, match="do not fit"):
        record()({"video": clips.transpose(1, 2)})


def test_views_are_normalised_each_once():
    weak, strong = raw(), raw(batch=2).flip(-1).contiguous()
    out = record()({"views": [weak, strong], "video": weak})
    for found, view in zip(out["views"], (weak, strong), strict=True):
        assert torch.equal(found, record()({"video": view})["video"])
    assert out["video"] is out["views"][0]
    alone = record()({"views": [weak, strong]})
    assert "video" not in alone and torch.equal(alone["views"][1], out["views"][1])
    other = raw(frames=6)
    out = record()({"views": [weak], "video": other})  # clips that are none of the views
    assert torch.equal(out["video"], record()({"video": other})["video"])
    swapped = record(layout="tchw")({"views": [strong.transpose(1, 2)], "video": weak.transpose(1, 2)})
    assert torch.equal(swapped["views"][0], alone["views"][1]) and torch.equal(swapped["video"], alone["views"][0])


def test_views_may_be_of_any_size_but_the_clip_may_not():
    small = raw(size=(4, 6))
    out = record()({"views": [raw(), small]})
    assert [tuple(view.shape[-2:]) for view in out["views"]] == [(8, 12), (4, 6)]
    with pytest.raises(DataError, match="says"):
        record()({"views": [small], "video": small})
    grown = record(resize=True)({"views": [small], "video": small})
    assert grown["views"][0].shape[-2:] == (4, 6) and grown["video"].shape[-2:] == (8, 12)
    with pytest.raises(DataError, match="must be uint8"):
        record()({"views": [small.float()]})


def test_what_stands_still_is_taken_out_and_kept_beside():
    clips = raw()
    clips[:, :, :, 0] = clips[:, :, :1, 0]  # a row that stands still
    plain = record()({"video": clips})["video"]
    out = record(motion_only=True)({"video": clips})
    assert out["still"].shape == (2, 3, 1, 8, 12)
    torch.testing.assert_close(out["still"][:, :, 0], sum(plain.unbind(2)) / 4)
    torch.testing.assert_close(out["video"] + out["still"], plain)
    assert out["video"][:, :, :, 0].abs().max() < 1e-6 and out["video"].mean(2).abs().max() < 1e-6
    assert "still" not in record()({"video": clips})
    views = record(motion_only=True)({"views": [clips, raw().flip(-1).contiguous()], "video": clips})
    assert torch.equal(views["views"][0], out["video"]) and views["video"] is views["views"][0]
    assert torch.equal(views["still"], out["still"]) and views["views"][1].mean(2).abs().max() < 1e-6


def test_baselines_are_those_of_the_clips_as_they_came():
    from perception.backbones.video_vit import VideoViT

    sizes = dict(image_size=(8, 12), frames=4, patch_size=4, embed_dim=8, depth=1, num_heads=2)
    both = [VideoViT(**sizes, preprocess=record(motion_only=m)) for m in (False, True)]
    plain, moving = (vit.baselines(vit.preprocess({"video": raw()})) for vit in both)
    assert plain.keys() == moving.keys() and plain["static"].abs().max() > 0.1
    for name, values in plain.items():
        torch.testing.assert_close(moving[name], values)


def test_images_become_clips_that_stand_still():
    image = raw(1)[:, :, 0]
    out = record()({"image": image})["video"]
    assert out.shape == (2, 3, 4, 8, 12)
    assert torch.equal(out, record()({"video": image[:, :, None].repeat(1, 1, 4, 1, 1)})["video"])


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (dict(video=raw().float()), "must be uint8"),
        (dict(video=raw(size=(8, 8))), "says"),
        (dict(video=raw()[:, :2]), "do not fit"),
        (dict(audio=1), "needs a tensor 'video'"),
    ],
)
def test_other_batches_are_refused(batch, text):
    with pytest.raises(DataError, match=text):
        record()(batch)


def test_resize_brings_clips_to_size_frame_by_frame():
    clips = raw(size=(16, 24))
    out = record(resize=True)({"video": clips})["video"]
    alone = record(resize=True)({"video": clips[:1, :, 2:3]})["video"]
    assert out.shape == (2, 3, 4, 8, 12)
    torch.testing.assert_close(out[:1, :, 2:3], alone)


def test_prepare_takes_the_middle_at_the_stride():
    film = np.zeros((20, 8, 12, 3), np.uint8) + np.arange(20, dtype=np.uint8)[:, None, None, None]
    clip = record(stride=3).prepare(film)
    assert clip.shape == (3, 4, 8, 12) and clip.dtype == np.uint8
    assert clip[0, :, 0, 0].tolist() == [5, 8, 11, 14]  # 10 frames wide, 5 before and 5 after
    assert record(stride=3).prepare(film[:5])[0, :, 0, 0].tolist() == [0, 3, 3, 3]  # the last reachable one repeated
    with pytest.raises(DataError, match="does not fit"):
        record().prepare(film[..., :2])


def test_records_agree_on_normalisation_and_may_differ_in_frames():
    one = record()
    again = PREPROCESSES.build(one.record())
    assert again == one
    one.require_same(record(size=16, frames=8, stride=1, fps=10.0).record(), "a run")
    with pytest.raises(CheckpointError, match="mean"):
        one.require_same(record(mean=(0.5,) * 3).record(), "a run")
    with pytest.raises(CheckpointError, match="motion_only"):
        one.require_same(record(motion_only=True).record(), "a run")
    older = {k: v for k, v in record().record().items() if k != "motion_only"}
    record().require_same(older, "a run of before")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (dict(size=0), "size"),
        (dict(frames=0), "frames"),
        (dict(stride=0), "stride"),
        (dict(fps=0.0), "fps"),
        (dict(mean=(0.5,)), "mean"),
        (dict(mean=(127.0,) * 3), "mean"),
        (dict(std=(0.0,) * 3), "std"),
        (dict(layout="thwc"), "layout"),
        (dict(interpolation="cubic"), "interpolation"),
        (dict(crop_fraction=0.0), "crop_fraction"),
    ],
)
def test_impossible_records_name_the_key(changes, key):
    with pytest.raises(ConfigError) as error:
        record(**changes)
    assert error.value.faults[0].path == f"model.backbone.preprocess.{key}"

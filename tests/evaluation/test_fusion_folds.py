"""Fusion over grouped folds: nothing of a held-out group is seen, and the figures follow from the scores."""

import json

import numpy as np
import pytest
import torch

from perception.datasets.folds import grouped_folds
from perception.errors import ConfigError
from perception.evaluation import fusion_folds
from perception.evaluation.bootstrap import bootstrap_auroc, paired_bootstrap
from perception.evaluation.fusion_folds import FusionFolds, compare_heads
from perception.evaluation.protocol import EvaluationError
from perception.evaluation.run import evaluate
from perception.registry import BACKBONES, PROTOCOLS

VIT = dict(
    type="VideoViT",
    image_size=8,
    frames=2,
    patch_size=4,
    embed_dim=24,
    depth=1,
    num_heads=2,
    preprocess=dict(type="VideoPreprocess", size=8, frames=2, stride=1),
)
HEADS = dict(
    video=dict(branches=dict(video=[16]), lr=1e-2, epochs=15),
    text=dict(branches=dict(text=[16]), lr=1e-2, epochs=15),
    fusion=dict(branches=dict(video=[16], text=[16]), joint=[16], lr=1e-2, epochs=15),
)


class Clips:
    """Bright clips are positive, so are texts with 'pull', each with noise; ``views`` clips a video."""

    modality = "video"
    views = 2

    def __init__(self, count=60, groups=6):
        random = np.random.default_rng(0)
        self.targets = np.arange(count) % 2
        self.groups = np.arange(count) // (count // groups)
        said = random.random(count) < np.where(self.targets == 1, 0.8, 0.2)
        self.texts = ["pull back" if word else "stay" for word in said]
        level = 100 + 30 * self.targets + random.normal(0, 25, count)
        self.clips = np.clip(level[:, None, None, None, None] + random.normal(0, 9, (count, 3, 2, 8, 8)), 0, 255)
        self.classes = ("no", "yes")

    def __len__(self):
        return len(self.targets) * self.views

    def rows_where(self, where):
        return np.arange(len(self.targets)) % 4 < where["quarter"]

    def __getitems__(self, keys):
        keys = np.array(keys)
        video = keys // self.views
        clips = torch.from_numpy(self.clips[video].astype(np.uint8))
        label = torch.from_numpy(self.targets[video])
        return {"video": clips, "index": torch.from_numpy(keys), "video_index": torch.from_numpy(video), "label": label}

    def __getitem__(self, key):
        return self.__getitems__([key])


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return BACKBONES.build(VIT)


@pytest.fixture(scope="module")
def protocol():
    options = dict(heads=HEADS, text_encoder=dict(type="HashingTfidf", dim=16), folds=3, standardise=True)
    return PROTOCOLS.build(dict(type="FusionFolds", **options, subset=dict(quarter=2), baselines=["static"]))


@pytest.fixture(scope="module")
def outcomes(protocol, backbone):
    return protocol.run(backbone, Clips(), 0)


def one(outcomes, variant, metric="auroc"):
    (found,) = [o for o in outcomes if o.variant == variant and o.metric == metric]
    return found


def test_figures_follow_from_the_scores(outcomes):
    data = Clips()
    assert outcomes[0].variant == "fusion" and outcomes[0].n == 60
    for name in ("video", "text", "fusion", "static"):
        found = one(outcomes, name)
        scores = np.array(found.extras["scores"])
        interval = bootstrap_auroc(scores, data.targets == 1, data.groups)
        assert (found.value, found.interval) == (interval.value, (interval.low, interval.high))
        half = np.arange(60) % 4 < 2
        part = one(outcomes, f"{name} (quarter=2)")
        assert part.value == bootstrap_auroc(scores[half], data.targets[half] == 1, data.groups[half]).value
        assert part.n == 30 and "scores" not in part.extras
        within = [
            bootstrap_auroc(scores[data.groups == g], data.targets[data.groups == g] == 1).value for g in range(6)
        ]
        assert one(outcomes, name, "auroc_within").value == pytest.approx(np.mean(within))
    assert min(one(outcomes, name).value for name in ("video", "text", "fusion")) > 0.65  # both tell something


def test_the_fusion_is_held_against_the_better_single_head(outcomes):
    single = {name: one(outcomes, name) for name in ("video", "text")}
    best = max(single, key=lambda name: single[name].value)
    found = one(outcomes, "fusion").extras
    by_hand = paired_bootstrap(
        one(outcomes, "fusion").extras["scores"], single[best].extras["scores"], Clips().targets == 1, Clips().groups
    )
    assert found["better_single"] == best
    assert (found["difference"], found["difference_low"], found["p"]) == (by_hand.value, by_hand.low, by_hand.p)


def test_nothing_of_the_held_out_groups_reaches_their_scores(protocol, backbone, outcomes, monkeypatch):
    data = Clips()
    folds = grouped_folds(data.targets, data.groups, 3)
    tested = folds == 0
    fitted = []
    honest = fusion_folds.build_text_encoder

    def spy(cfg):
        encoder = honest(cfg)
        fit = encoder.fit
        monkeypatch.setattr(encoder, "fit", lambda texts: (fitted.append(len(texts)), fit(texts))[1])
        return encoder

    monkeypatch.setattr(fusion_folds, "build_text_encoder", spy)
    data.targets = np.where(tested, 1 - data.targets, data.targets)  # labels of that fold are turned round
    monkeypatch.setattr(fusion_folds, "grouped_folds", lambda *a: folds)
    changed = protocol.run(backbone, data, 0)
    for name in ("video", "text", "fusion"):
        before, after = (np.array(one(o, name).extras["scores"]) for o in (outcomes, changed))
        assert np.array_equal(before[tested], after[tested]) and not np.array_equal(before[~tested], after[~tested])
    assert fitted and all(count == (folds != fold).sum() for count, fold in zip(fitted, [0, 1, 2] * 9, strict=False))


def test_the_same_seed_gives_the_same_and_global_states_stay(protocol, backbone, outcomes):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = protocol.run(backbone, Clips(), 0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [o.value for o in again] == [o.value for o in outcomes]
    assert [o.value for o in protocol.run(backbone, Clips(), 1)] != [o.value for o in outcomes]


def test_two_runs_are_compared_in_pairs(protocol, backbone, tmp_path):
    section = dict(test=Clips(), protocols=dict(fusion=protocol))
    torch.manual_seed(1)
    rows = evaluate(backbone, section, 0, untrained=BACKBONES.build(VIT))
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps(dict(rows=rows)))
    same = compare_heads(file, file, "video")
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    found = compare_heads(file, file, "video", other="untrained")
    values = {
        row["source"]: row["value"] for row in rows if row["variant"].endswith("video") and row["metric"] == "auroc"
    }
    assert found.value == pytest.approx(values["trained"] - values["untrained"])
    with pytest.raises(EvaluationError, match="no scores of a head 'audio'"):
        compare_heads(file, file, "audio")


def test_faults(backbone):
    for options, message in (
        (dict(heads=dict(video=dict(branches=dict(video=[4])))), "needs lr, epochs"),
        (dict(heads=dict(video=dict(branches=dict(video=[4]), lr=1, epochs=1, joints=[3]))), "nearest is 'joint'"),
        (dict(heads=dict(video=dict(branches=dict(video=[0]), lr=1, epochs=1))), "whole numbers"),
        (dict(folds=1), "at least 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            FusionFolds(**options)
    with pytest.raises(ConfigError, match=r"'vidoe'.*nearest is 'video'"):
        FusionFolds(heads=dict(a=dict(branches=dict(vidoe=[4]), lr=1e-3, epochs=1))).run(backbone, Clips(), 0)
    data = Clips()
    data.groups = np.full(60, -1)
    with pytest.raises(EvaluationError, match="has none: name their column"):
        FusionFolds().run(backbone, data, 0)

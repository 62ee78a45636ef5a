"""The resize-and-normalise benchmark: its normalisations and sizes against formulas, its grid against single steps."""

import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from perception.backbones.random_features import ImageStatistics
from perception.backbones.vit import ViT
from perception.datasets.eurosat_mini import EuroSATMini
from perception.datasets.images import ArrayImages
from perception.errors import ConfigError, DataError
from perception.evaluation.features import extract
from perception.evaluation.frozen_encoders import find_encoder, find_encoders
from perception.evaluation.frozen_features import NORMALISATIONS, BandStatistics, Grid, band_statistics, normalisation
from perception.evaluation.frozen_features import run_grid as run
from perception.evaluation.frozen_report import cells, draw, markdown, table, write_report
from perception.evaluation.knn import KNN
from perception.evaluation.protocol import EvaluationError, Splits
from perception.transforms.image_resize import resize

needs_data = pytest.mark.skipif("PERCEPTION_DATA" not in os.environ, reason="needs $PERCEPTION_DATA/remote_sensing")


class Tiles(ArrayImages):
    """Two classes of noisy tiles, one brighter; with ``several`` the labels are two independent ones."""

    def __init__(self, count=40, seed=0, bands=3, size=12, dtype=np.uint8, several=False):
        random = np.random.default_rng(seed)
        labels = np.arange(count) % 2
        top = 200 if dtype == np.uint8 else 8000
        base = np.array([0.2, 0.5])[labels][:, None, None, None] * top
        images = (base + random.random((count, bands, size, size)) * 0.3 * top).astype(dtype)
        if several:
            labels = np.stack([labels, random.integers(0, 2, count)], 1)
        super().__init__(images, labels, ["dark", "bright"])
        self.bands = tuple(f"B{i + 2:02d}" for i in range(bands))

    def fetch(self, indices):
        return {**super().fetch(indices), "meta": {"bands": self.bands}}


def test_statistics_are_those_of_all_pixels_whatever_the_batch():
    data = Tiles(bands=4, dtype=np.uint16)
    pixels = data.images.astype(np.float64)
    for batch_size in (7, 500):
        found = band_statistics(data, batch_size)
        assert np.allclose(found.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
        assert np.allclose(found.std, pixels.std((0, 2, 3)), rtol=1e-12)
        assert found.low == tuple(pixels.min((0, 2, 3))) and found.high == tuple(pixels.max((0, 2, 3)))
    assert (found.size, found.dtype, found.images) == ((12, 12), "uint16", 40)
    assert found.bands == ("B02", "B03", "B04", "B05")
    swapped = found.of(("red", "B2"))  # by name, also by a colour's
    assert swapped.mean == (found.mean[2], found.mean[0]) and swapped.bands == ("red", "B2")
    with pytest.raises(DataError, match="no band 'B11'"):
        found.of(("B11",))


def test_statistics_of_values_that_are_no_numbers_are_refused():
    data = Tiles(dtype=np.float32)
    data.images[3, 0, 0, 0] = np.nan
    with pytest.raises(EvaluationError, match="not finite"):
        band_statistics(data)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("kind", ["divide", "standardization", "minmax", "for_seco"])
def test_normalisations_are_the_formulas(kind, dtype):
    data = Tiles(dtype=dtype)
    statistics = band_statistics(data)
    x = data.images.astype(np.float64)
    mean, std, low, high = (f(x, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std, np.min, np.max))
    divisor = 255 if dtype == np.uint8 else 10000
    expected = {
        "divide": x / divisor,
        "standardization": (x - mean) / std,
        "minmax": (x - low) / (high - low),
        "for_seco": np.clip(x / 2750, 0, 1),
    }[kind]
    if kind == "for_seco" and dtype == np.uint8:
        with pytest.raises(EvaluationError, match="reflectance"):
            normalisation(kind, statistics, 12)
        return
    found = normalisation(kind, statistics, 12, divisor=10000)(data.fetch(np.arange(40)))["image"]
    assert np.allclose(found, expected, atol=1e-5)


def test_nothing_is_guessed():
    statistics = band_statistics(Tiles(dtype=np.float32))
    with pytest.raises(EvaluationError, match="divide needs a divisor for float32 values"):
        normalisation("divide", statistics, 12)
    with pytest.raises(EvaluationError, match="nearest is 'minmax'"):
        normalisation("min-max", statistics, 12)


def test_constant_bands_are_only_shifted():
    data = Tiles()
    data.images[:, 1] = 7
    for kind in ("standardization", "minmax"):
        found = normalisation(kind, band_statistics(data), 12)(data.fetch(np.arange(4)))["image"]
        assert found[:, 1].abs().max() < 1e-6 and found.isfinite().all()


def by_hand(image, size, corners):
    """Bilinear resizing of (H, W) without antialiasing, written as a loop."""
    old = image.shape[0]
    out = np.zeros((size, size))
    for r in range(size):
        for c in range(size):
            at = [
                i * (old - 1) / (size - 1) if corners else min(max((i + 0.5) * old / size - 0.5, 0), old - 1)
                for i in (r, c)
            ]
            top, left = int(at[0]), int(at[1])
            down, right = min(top + 1, old - 1), min(left + 1, old - 1)
            y, x = at[0] - top, at[1] - left
            rows = image[top] * (1 - y) + image[down] * y
            out[r, c] = rows[left] * (1 - x) + rows[right] * x
    return out


@pytest.mark.parametrize("size", [5, 12, 20, 24])
def test_resizing_is_the_formula_with_and_without_aligned_corners(size):
    image = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    corners = resize(image, (size, size), "bilinear-corners")[0, 0].numpy()
    assert np.allclose(corners, by_hand(image[0, 0].double().numpy(), size, True), atol=1e-5)
    assert np.allclose(corners[[0, 0, -1, -1], [0, -1, 0, -1]], image[0, 0].numpy()[[0, 0, -1, -1], [0, -1, 0, -1]])
    plain = F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)[0, 0].numpy()
    assert np.allclose(plain, by_hand(image[0, 0].double().numpy(), size, False), atol=1e-5)
    if size >= 12:  # antialiasing only acts where pixels are dropped
        assert np.allclose(resize(image, (size, size), "bilinear")[0, 0].numpy(), plain, atol=1e-5)


def test_the_native_size_is_the_identity_and_resizing_commutes_with_normalising():
    data = Tiles()
    statistics, raw = band_statistics(data), data.fetch(np.arange(6))
    x = raw["image"].float()
    assert torch.equal(resize(x, (12, 12), "bilinear-corners"), x)
    native = normalisation("standardization", statistics, 12)(raw)["image"]
    for interpolation in ("bilinear-corners", "bilinear", "bicubic"):
        record = normalisation("standardization", statistics, 20, interpolation=interpolation)
        assert torch.equal(record(raw)["image"], resize(native, (20, 20), interpolation))
        mean, std = (torch.tensor(v)[:, None, None] for v in (statistics.mean, statistics.std))
        first = (resize(x, (20, 20), interpolation) - mean) / std
        torch.testing.assert_close(record(raw)["image"], first, atol=1e-5, rtol=0)


def grid(*texts, **changes):
    options = dict(sizes=("native",), normalisations=("divide",), judges=("knn",), seeds=(0, 1))
    return Grid(find_encoders(texts), **{**options, **changes})


def test_a_cell_is_what_its_steps_give_one_by_one():
    train, test = Tiles(), Tiles(seed=1)
    statistics = band_statistics(train)
    rows = run(grid("rcf", sizes=("native", "20"), judges=("knn", "knn_scaled", "linear")), train, test, statistics)
    assert len(rows) == 2 * 2 * 3 and {r["dims"] for r in rows} == {512}
    last = next(r for r in rows if (r["size"], r["seed"], r["protocol"]) == (20, 1, "knn_scaled"))
    torch.manual_seed(1)
    backbone = find_encoder("rcf").build(normalisation("divide", statistics, 20), 1, train)
    parts = [extract(backbone, data)["backbone"] for data in (train, test)]
    protocol = KNN(k=5, distance="euclidean", votes="uniform", standardise=True)
    assert last["value"] == protocol.run(Splits(train=parts[0], test=parts[1]), 0)[0].value
    assert last["record"]["size"] == (20, 20) and last["ci95"][0] <= last["value"] <= last["ci95"][1]


def test_only_random_encoders_are_repeated_and_seeds_are_kept_apart():
    state = torch.get_rng_state()
    rows = run(grid("statistics", "rcf", "mosaiks", "random:resnet10t"), Tiles(), Tiles(seed=1), stats())
    assert torch.equal(torch.get_rng_state(), state)
    seeds = {name: [r["seed"] for r in rows if r["encoder"] == name] for name in {r["encoder"] for r in rows}}
    assert seeds == {"statistics": [0], "rcf": [0, 1], "mosaiks": [0, 1], "random resnet10t": [0, 1]}
    again = run(grid("rcf", seeds=(1,)), Tiles(), Tiles(seed=1), stats())
    assert again[0]["value"] == next(r["value"] for r in rows if (r["encoder"], r["seed"]) == ("rcf", 1))


def stats() -> BandStatistics:
    return band_statistics(Tiles())


def test_bands_are_taken_by_name():
    train, test = Tiles(bands=5, dtype=np.uint16), Tiles(bands=5, dtype=np.uint16, seed=1)
    statistics = band_statistics(train)
    chosen = grid("statistics", bands=("B06", "B02"), divisor=10000.0)
    rows = run(chosen, train, test, statistics)
    assert rows[0]["dims"] == 8 and rows[0]["record"]["bands"] == ("B06", "B02")
    record = chosen.record(chosen.encoders[0], "divide", "native", statistics)
    found = ImageStatistics(2).encode(record(train.fetch(np.arange(3))))
    expected = train.images[:3, [4, 0]].astype(np.float64).mean((2, 3)) / 10000
    assert np.allclose(found[:, :2], expected, atol=1e-6)


def test_several_labels_are_judged_by_average_precision():
    train, test = Tiles(several=True), Tiles(seed=1, several=True)
    rows = run(grid("statistics", judges=("knn", "knn_scaled", "linear", "linear_raw")), train, test, stats())
    assert [r["metric"] for r in rows] == ["ap_micro"] * 4 and all(r["ci95"] is None for r in rows)
    assert set(rows[0]["extras"]) == {"ap_macro", "ap_weighted", "f1_micro", "f1_macro", "f1_weighted"}
    assert "micro-averaged average precision" in markdown(rows, "Tiles")


def test_a_trained_encoder_keeps_its_bands_and_may_keep_its_record(monkeypatch, tmp_path):
    record = dict(type="ImagePreprocess", size=12, bands=("B04", "B02"), mean=(0.4, 0.5), std=(0.2, 0.3))
    torch.manual_seed(0)
    vit = ViT(12, 4, 2, embed_dim=16, depth=1, num_heads=2, preprocess=record).eval()
    path = tmp_path / "export"
    path.mkdir()
    loads = "perception.evaluation.frozen_encoders.load_backbone"
    monkeypatch.setattr(loads, lambda where, seed=None: load(vit))
    cfg = grid(str(path), normalisations=("own", "divide"), sizes=("native", 16))
    rows = run(cfg, Tiles(), Tiles(seed=1), stats())
    assert [(r["encoder"], r["normalisation"], r["size"], r["seed"]) for r in rows] == [
        ("export", kind, size, 0) for size in (12, 16) for kind in ("own", "divide")
    ]
    assert all(r["record"]["bands"] == ("B04", "B02") for r in rows)
    assert rows[0]["record"]["mean"] == (0.4, 0.5) and rows[1]["record"]["mean"] == (0.0, 0.0)
    expected = [extract(load(vit), data)["backbone"] for data in (Tiles(), Tiles(seed=1))]
    assert rows[0]["value"] == KNN(variant="resize-benchmark").run(Splits(*expected[:1], test=expected[1]), 0)[0].value
    assert not [k for _, k, _ in grid("statistics", normalisations=("own", "divide")).cells() if k == "own"]


def load(vit):
    """A fresh copy, as loading gives."""
    return vit.teacher_copy().eval()


def test_a_config_or_its_name_is_an_untrained_encoder():
    text = "dict(type='ViT', image_size=12, patch_size=4, embed_dim=16, depth=1, num_heads=2)"
    found = find_encoder(text)
    assert found.name == "untrained ViT" and found.random and found.record is None
    four = Tiles(bands=4)
    rows = run(grid(text, sizes=("native", 24)), four, Tiles(bands=4, seed=1), band_statistics(four))
    assert [r["dims"] for r in rows] == [16] * 4 and [r["seed"] for r in rows] == [0, 1, 0, 1]
    assert find_encoder("image/mae_vit-tiny_digits").name == "untrained image/mae_vit-tiny_digits"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("statistic", "'statistics'"),
        ("dict(typ='ViT')", "the key 'type'"),
        ("dict(type=open('x'))", "not a python literal"),
    ],
)
def test_wrong_encoders_are_named(text, message):
    with pytest.raises(ConfigError, match=message):
        find_encoder(text)


def test_wrong_grids_are_named():
    for changes, text in (
        (dict(sizes=("nativ",)), "'nativ'"),
        (dict(normalisations=("standard",)), "'standard'"),
        (dict(judges=("knm",)), "nearest is 'knn'"),
    ):
        with pytest.raises(ConfigError, match=text):
            grid("statistics", **changes)
    with pytest.raises(ConfigError, match="called rcf"):
        find_encoders(["rcf", "statistics", "rcf"])
    assert "own" in NORMALISATIONS


def test_the_report_has_one_line_a_cell(tmp_path):
    rows = run(grid("statistics", "rcf", judges=("knn", "linear")), Tiles(), Tiles(seed=1), stats())
    rows[2]["value"], rows[4]["value"] = 0.5, 0.7  # kNN of RCF with seeds 0 and 1
    heads, lines = table(rows)
    assert heads == ["encoder", "px", "normalisation", "D", "kNN-5", "linear"]
    assert lines[0][:4] == ["statistics", "12", "divide", "12"] and "±" not in lines[0][4]
    assert lines[1][4] == "60.0 ± 14.1" and cells(rows)[1]["seeds"] == [0, 1]
    paths = write_report(tmp_path / "new", rows, "Tiles", stats(), {"seeds": [0, 1]})
    assert [p.name for p in paths] == [f"resize_benchmark.{s}" for s in ("json", "md", "png")]
    assert "40 training, 40 test images; random encoders: mean ± std over 2 seeds" in paths[1].read_text()
    draw(rows[:1], "Tiles", tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 5000


@needs_data
def test_the_figures_of_the_data_readme():
    train, test = EuroSATMini("train"), EuroSATMini("test")
    statistics = band_statistics(train)
    options = dict(normalisations=("divide", "standardization"), judges=("knn", "knn_scaled"))
    rows = run(grid("statistics", "rcf", seeds=(1,), **options), train, test, statistics)
    found = [[round(100 * r["value"], 1) for r in rows[i : i + 2]] for i in (0, 4, 6)]
    assert found == [[55.3, 61.7], [53.7, 61.3], [55.7, 63.3]]


@needs_data
@pytest.mark.slow
def test_the_slow_figures_of_the_data_readme():
    train, test = EuroSATMini("train"), EuroSATMini("test")
    statistics = band_statistics(train)
    options = dict(normalisations=("divide", "standardization"), judges=("knn", "knn_scaled", "linear"), seeds=(0,))
    rows = run(grid("random:resnet18", sizes=("native", 128), **options), train, test, statistics)
    found = [round(100 * r["value"], 1) for r in rows]
    expected = [43.0, 41.3, 53.3, 46.7, 47.7, 54.0, 49.0, 54.3, 59.3, 51.3, 57.7, 65.0]
    assert np.abs(np.array(found) - expected).max() <= 0.7
    rows = run(
        grid("mosaiks", **{**options, "judges": ("knn", "knn_scaled"), "seeds": (0, 1, 2)}), train, test, statistics
    )
    means = [[cell[name][0] for name in ("knn", "knn_scaled")] for cell in cells(rows)]
    assert np.abs(100 * np.array(means) - [[60.0, 63.7], [66.7, 64.7]]).max() <= 1.5


def test_a_backbone_of_another_modality_is_refused(monkeypatch, tmp_path):
    class Other:
        preprocess = object()

    monkeypatch.setattr("perception.evaluation.frozen_encoders.load_backbone", lambda *a, **k: Other())
    with pytest.raises(ConfigError, match="does not encode images"):
        find_encoder(str(tmp_path))

import json

import cv2
import numpy as np
import pytest
import torch

from perception.datasets.caption_corpora import RSICD, RSITMD, UCM_CLASSES, NWPUCaptions, SydneyCaptions, UCMCaptions
from perception.datasets.caption_files import CaptionFiles
from perception.datasets.image_files import area_fit
from perception.errors import ConfigError, DataError
from perception.registry import DATASETS
from perception.validation import validate_config

NAMES = ("beach_1.jpg", "beach_2.jpg", "port_1.jpg", "00012.jpg")


def picture(path, level=0, size=(20, 30)):
    """A grey picture whose grey tells it from others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), level, np.uint8))


def karpathy(folder, entries, file="dataset_rsicd.json"):
    """``entries``: name -> (split, texts)."""
    images = [
        dict(filename=name, split=split, imgid=n, sentences=[dict(raw=text, tokens=[]) for text in texts])
        for n, (name, (split, texts)) in enumerate(entries.items())
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(dict(dataset="x", images=images)))


@pytest.fixture
def said(monkeypatch):
    """What the log is told: mmengine's logger writes to the stream that was current when it was made."""
    lines = []
    for module in ("caption_records",):
        monkeypatch.setattr(f"perception.datasets.{module}.print_log", lambda text, **_: lines.append(text))
    return lines


@pytest.fixture
def rsicd(tmp_path):
    """Three train images and a test image in RSICD's layout."""
    for n, name in enumerate(NAMES):
        picture(tmp_path / "RSICD_images" / name, 40 * n)
    texts = {
        name: ("test" if name == "beach_2.jpg" else "train", [f"Text {n} .", f"More {n}."])
        for n, name in enumerate(NAMES)
    }
    karpathy(tmp_path, texts)
    return tmp_path


def test_rsicd_in_its_official_layout(rsicd):
    data = RSICD(str(rsicd), "train", size=16)
    assert data.names == ["beach_1.jpg", "port_1.jpg", "00012.jpg"] and data.sources == ("RSICD",)
    assert [data.classes[label] if label >= 0 else None for label in data.labels] == ["beach", "port", None]
    batch = data.fetch(np.array([2, 1]))
    assert batch["image"].shape == (2, 3, 16, 16) and batch["image"].dtype == torch.uint8
    assert (batch["image"].float().mean((1, 2, 3)) - torch.tensor([120.0, 80.0])).abs().max() <= 1
    assert batch["captions"] == [[("en", "Text 3 ."), ("en", "More 3.")], [("en", "Text 2 ."), ("en", "More 2.")]]
    assert batch["label"].tolist() == [-1, data.classes.index("port")] and batch["index"].tolist() == [2, 1]
    assert len(RSICD(str(rsicd), ["train", "test"])) == 4 and len(RSICD(str(rsicd), None)) == 4


def test_reading_lazily_equals_reading_at_once(rsicd):
    lazy, whole = (RSICD(str(rsicd), "train", size=12, in_memory=value) for value in (False, True))
    rows = np.array([0, 2, 1, 0])
    assert isinstance(whole.images, np.ndarray) and not isinstance(lazy.images, np.ndarray)
    assert torch.equal(lazy.fetch(rows)["image"], whole.fetch(rows)["image"])
    loader = torch.utils.data.DataLoader(lazy, batch_size=2, num_workers=1, collate_fn=lambda batch: batch)
    lazy.fetch(rows)  # its threads exist before the worker is forked
    assert torch.equal(torch.cat([b["image"] for b in loader]), whole.fetch(np.arange(3))["image"])


def test_images_as_they_are(rsicd):
    picture(rsicd / "RSICD_images" / "port_1.jpg", size=(25, 25))
    images = RSICD(str(rsicd), "train", size=None).fetch(np.arange(3))["image"]
    assert [tuple(image.shape) for image in images] == [(3, 20, 30), (3, 25, 25), (3, 20, 30)]


def test_the_longer_side_is_cut_at_the_centre():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 200  # the four columns at the centre
    assert (area_fit(image, 4) == 200).all() and (area_fit(image, 2) == 200).all()
    assert area_fit(image, 8).shape == (8, 8, 3)


@pytest.mark.parametrize("form", ["as_is", "no_stop", "capitalize", "spaced_stop"])
def test_text_forms_are_one_option(rsicd, form):
    expected = {
        "as_is": ["Text 1 .", "More 1."],
        "no_stop": ["Text 1", "More 1"],
        "capitalize": ["Text 1 .", "More 1."],
        "spaced_stop": ["text 1 .", "more 1 ."],
    }[form]
    data = RSICD(str(rsicd), "test", text_form=form)
    assert [text for _, text in data.captions[0]] == expected


def test_missing_images_are_an_error_with_names_and_count(rsicd, said):
    karpathy(rsicd, {f"beach_{n}.jpg": ("train", ["a"]) for n in range(9)})
    with pytest.raises(DataError, match=r"names 7 images that are not in .*: beach_0.jpg, beach_3.jpg, .* and 2 more"):
        RSICD(str(rsicd), "train")
    data = RSICD(str(rsicd), "train", missing="drop")
    assert data.names == ["beach_1.jpg", "beach_2.jpg"] and len(data.left_out["are missing"]) == 7
    assert "7 of 9 images are missing: beach_0.jpg" in "\n".join(said)


def test_images_under_another_suffix_are_pointed_at(rsicd):
    karpathy(rsicd, {"beach_1.tif": ("train", ["a"])})
    with pytest.raises(DataError, match=r"there is 'beach_1.jpg'"):
        RSICD(str(rsicd), "train")
    with pytest.raises(DataError, match=r"no image is left to use; left out {'are missing': 1}"):
        RSICD(str(rsicd), "train", missing="drop")


@pytest.mark.parametrize(
    ("texts", "text"),
    [
        (["a", 3, None], "2 captions are no text, of beach_1.jpg, beach_1.jpg"),
        (["a", "  "], "1 captions are empty, of beach_1.jpg"),
        ([], "1 images have no caption: beach_1.jpg"),
    ],
)
def test_bad_captions_are_counted_and_named(rsicd, texts, text):
    karpathy(rsicd, {"beach_1.jpg": ("train", texts), "port_1.jpg": ("train", ["fine"])})
    with pytest.raises(DataError, match=text):
        RSICD(str(rsicd), "train")


def test_blank_captions_can_be_dropped_with_a_report(rsicd, said):
    karpathy(
        rsicd, {"beach_1.jpg": ("train", [" ", "sand"]), "beach_2.jpg": ("train", [""]), "port_1.jpg": ("train", ["b"])}
    )
    data = RSICD(str(rsicd), "train", empty="drop")
    assert data.names == ["beach_1.jpg", "port_1.jpg"] and data.captions == [[("en", "sand")], [("en", "b")]]
    shown = "\n".join(said)
    assert "2 of 3 images have an empty caption" in shown and "1 of 3 images have no caption: beach_2.jpg" in shown


def test_names_twice_and_classes_outside_the_list(rsicd):
    entry = dict(filename="beach_1.jpg", split="train", sentences=[dict(raw="a")])
    (rsicd / "dataset_rsicd.json").write_text(json.dumps(dict(images=[entry, entry])))
    with pytest.raises(DataError, match=r"names 1 images more than once: beach_1.jpg"):
        RSICD(str(rsicd), "train")
    karpathy(rsicd, {"beech_1.jpg": ("train", ["a"]), "beech_2.jpg": ("val", ["a"])})
    with pytest.raises(DataError, match=r"2 images have a class outside the 30 .*'beech' \(2\); nearest .* is 'beach'"):
        RSICD(str(rsicd), "train")


def test_an_unknown_split_names_those_that_there_are(rsicd):
    with pytest.raises(DataError, match=r"no split 'tests', only {'train': 3, 'test': 1}; nearest is 'test'"):
        RSICD(str(rsicd), "tests")


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png"])
def test_corrupt_images_are_named(tmp_path, suffix):
    name = f"beach_1{suffix}"
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / name), rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    karpathy(tmp_path, {name: ("train", ["a"])})
    whole = (tmp_path / "images" / name).read_bytes()
    RSICD(str(tmp_path), "train", size=16)
    for damaged in (whole[: len(whole) // 2], b"", b"no picture at all", whole[:-40]):
        (tmp_path / "images" / name).write_bytes(damaged)
        with pytest.raises(DataError, match=f"images/{name}'"):
            RSICD(str(tmp_path), "train", size=16)
        with pytest.raises(DataError, match=f"images/{name}'"):
            RSICD(str(tmp_path), "train", size=16, in_memory=False).fetch(np.array([0]))


def test_exclusions_by_list_and_by_file(rsicd):
    assert RSICD(str(rsicd), "train", exclude=["port_1.jpg"]).names == ["beach_1.jpg", "00012.jpg"]
    (rsicd / "leaks.txt").write_text("# found by hand\nport_1.jpg  # twice in test\n\n00012.jpg\n")
    data = RSICD(str(rsicd), "train", exclude=str(rsicd / "leaks.txt"))
    assert data.names == ["beach_1.jpg"] and data.left_out == {"excluded": ["port_1.jpg", "00012.jpg"]}
    with pytest.raises(DataError, match=r"exclude=.*cannot be read"):
        RSICD(str(rsicd), "train", exclude=str(rsicd / "leak.txt"))


def test_translations_from_a_sidecar_and_from_a_second_file(rsicd):
    (rsicd / "more.json").write_text(
        json.dumps({"beach_1.jpg": {"de": ["Strand"], "pt": ["praia"]}, "beach_2.jpg": {"de": ["Meer"]}})
    )
    data = RSICD(str(rsicd), "train", translations=str(rsicd / "more.json"))
    assert data.captions[0] == [("en", "Text 0 ."), ("en", "More 0."), ("de", "Strand"), ("pt", "praia")]
    assert data.languages == ("en", "de", "pt") and len(data.captions[1]) == 2
    karpathy(rsicd, {"beach_1.jpg": ("train", ["沙滩。"])}, "zh.json")
    data = RSICD(str(rsicd), "train", translations={"zh": str(rsicd / "zh.json")}, languages=["zh"], empty="drop")
    assert data.captions == [[("zh", "沙滩。")]]
    (rsicd / "more.json").write_text(json.dumps({"beach_7.jpg": {"de": ["Strand"]}}))
    with pytest.raises(DataError, match=r"translates 1 images that are unknown: beach_7.jpg"):
        RSICD(str(rsicd), "train", translations=str(rsicd / "more.json"))
    (rsicd / "more.json").write_text(json.dumps({"beach_1.jpg": ["Strand"]}))
    with pytest.raises(DataError, match="no sidecar of translations"):
        RSICD(str(rsicd), "train", translations=str(rsicd / "more.json"))


def test_nwpu_captions_in_their_official_layout(tmp_path):
    content = {}
    for category in ("airplane", "sea_ice"):
        keys = ("raw", "raw_1", "raw_2", "raw_3", "raw_4")
        entry = dict(filename="x_001.jpg", imgid=1, split="train", sentids=5, sentids_1=6)
        content[category] = [entry | {key: f"{category} {key} ." for key in keys}]
        picture(tmp_path / "NWPU_images" / category / "x_001.jpg", 90)
    (tmp_path / "dataset_nwpu.json").write_text(json.dumps(content))
    data = NWPUCaptions(str(tmp_path), "train", size=8)
    assert data.names == ["airplane/x_001.jpg", "sea_ice/x_001.jpg"] and data.classes == ("airplane", "sea_ice")
    assert [text for _, text in data.captions[1]] == [
        f"sea_ice {key} ." for key in ("raw", "raw_1", "raw_2", "raw_3", "raw_4")
    ]
    assert data.labels.tolist() == [0, 1] and "NWPU-RESISC45" in data.sources
    chinese = [dict(filename="x_001.jpg", filepath="airplane", split="train", sentences=[dict(raw="飞机。")])]
    (tmp_path / "zh.json").write_text(json.dumps(dict(images=chinese)))
    data = NWPUCaptions(str(tmp_path), "train", size=8, translations={"zh": str(tmp_path / "zh.json")})
    assert data.captions[0][-1] == ("zh", "飞机。") and len(data.captions[1]) == 5


def test_precomputed_text_files(rsicd):
    folder = rsicd / "rsicd_precomp"
    folder.mkdir()
    (folder / "train_filename.txt").write_text("beach_1.jpg\nbeach_1.jpg\nport_1.jpg\n")
    (folder / "train_caps.txt").write_text("a .\nb .\nc .\n")
    (folder / "train_filename_verify.txt").write_text("port_1.jpg\n")
    (folder / "train_caps_verify.txt").write_text("c .\n")
    data = RSICD(str(rsicd), "train", file="rsicd_precomp")
    assert data.captions == [[("en", "a ."), ("en", "b .")], [("en", "c .")]]
    assert RSICD(str(rsicd), "train_verify", file="rsicd_precomp").names == ["port_1.jpg"]
    (folder / "train_caps.txt").write_text("a .\nb .\n")
    with pytest.raises(DataError, match=r"train_caps.txt' has 2 lines, .*train_filename.txt' has 3"):
        RSICD(str(rsicd), "train", file="rsicd_precomp")


def test_ucm_and_sydney_in_both_official_layouts(tmp_path):
    for name in ("1.tif", "100.tif", "101.tif"):
        picture(tmp_path / "imgs" / name)
    karpathy(tmp_path, {"100.tif": ("train", ["field"]), "101.tif": ("train", ["plane"])}, "dataset.json")
    data = UCMCaptions(str(tmp_path), "train", size=8)
    assert [data.classes[label] for label in data.labels] == ["agricultural", "airplane"] and len(UCM_CLASSES) == 21
    (tmp_path / "dataset.json").unlink()
    (tmp_path / "filenames").mkdir()
    (tmp_path / "filenames" / "descriptions_SYDNEY.txt").write_text("1 a house .\n1 a road .\n101 a plane .\n")
    (tmp_path / "filenames" / "filenames_test.txt").write_text("1.tif\n101.tif\n")
    data = SydneyCaptions(str(tmp_path), "test", size=8)
    assert data.captions == [[("en", "a house ."), ("en", "a road .")], [("en", "a plane .")]] and data.classes == ()
    assert "label" not in data.fetch(np.array([0]))
    (tmp_path / "filenames" / "descriptions_SYDNEY.txt").write_text("a house .\n")
    with pytest.raises(DataError, match=r"line 1 of .* does not start with the number of an image"):
        SydneyCaptions(str(tmp_path), "test")


def test_rsitmd_names_what_it_needs(tmp_path):
    with pytest.raises(DataError, match=r"none of \['dataset_RSITMD.json', .* is in .*AMFMN"):
        RSITMD(str(tmp_path), "test")
    karpathy(tmp_path, {"boat_1.tif": ("test", ["a"])}, "dataset_RSITMD.json")
    with pytest.raises(DataError, match=r"none of the folders \['images'"):
        RSITMD(str(tmp_path), "test")
    picture(tmp_path / "images" / "boat_1.tif")
    assert RSITMD(str(tmp_path), "test").labels.tolist() == [4]


def test_the_multilingual_record(tmp_path):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "b.png")
    rows = [
        dict(image="a.png", captions=[["en", "sea"], ["ko", "바다"]], split="train", image_id=7, label="sea"),
        dict(image="b.png", captions=["plain"], split="train"),
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    data = CaptionFiles(str(tmp_path / "texts.jsonl"), str(tmp_path / "images"), size=8, classes=["land", "sea"])
    assert data.captions == [[("en", "sea"), ("ko", "바다")], [("en", "plain")]] and data.labels.tolist() == [1, -1]
    (tmp_path / "texts.jsonl").write_text(json.dumps(rows[0]) + "\n{")
    with pytest.raises(DataError, match=r"line 2 of .*texts.jsonl' is no JSON"):
        CaptionFiles(str(tmp_path / "texts.jsonl"), str(tmp_path / "images"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "is no JSON"),
        ('{"a": 1}', "no caption file that is known"),
        ('[{"captions": []}]', r"entry 0 of .* has none of \['filename', 'image'\]: \['captions'\]"),
        ('[{"filename": "a.jpg"}]', r"none of \['captions', 'sentences'\]"),
        ('[{"filename": "a.jpg", "captions": "a"}]', "its captions are no list"),
        ('[{"filename": "a.jpg", "captions": [["en"]]}]', r"not \(language, text\)"),
        ('{"images": [{"filename": "a.jpg", "sentences": [{"tokens": []}]}]}', "has no 'raw'"),
        ('{"sea": [{"filename": "a.jpg"}]}', "has no 'raw'"),
        ('{"sea": [7]}', r"entry 0 of .* has none of \['filename'\]: 7"),
    ],
)
def test_caption_files_that_are_none(tmp_path, content, text):
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(DataError, match=text):
        CaptionFiles(str(tmp_path / "captions.json"), str(tmp_path))


def test_faults_show_before_anything_is_built(rsicd):
    wrong = dict(type="RSICD", root=str(rsicd), missing="warn", text_form="caps", size=None, in_memory=True)
    with pytest.raises(ConfigError, match="3 faults"):
        DATASETS.build(dict(wrong))
    cfg = dict(model=dict(type="Pretrainer"), evaluation=dict(train=wrong | dict(root=str(rsicd / "none"))))
    found = {fault.path: str(fault) for fault in validate_config(cfg, training=False)}
    for key in ("missing", "text_form", "in_memory", "root"):
        assert f"evaluation.train.{key}" in found
    assert "RSICD_optimal" in found["evaluation.train.root"]


def test_files_that_are_not_there_are_told_before_anything_is_read(tmp_path):
    given = dict(file="captions.json", images="pictures", exclude="leaks.txt", translations={"pt": "pt.json"})
    defaults = dict(text_form="as_is", missing="error", empty="error", size=8, interpolation="bicubic", in_memory=None)
    told = dict(CaptionFiles.check_config({**defaults, **given}))
    assert set(told) == {"file", "images", "exclude", "translations.pt"} and "leak_check" in told["exclude"]
    there = str(tmp_path / "there")
    (tmp_path / "there").mkdir()
    given = dict(file=there, images=there, exclude=["a.png"], translations=there)
    assert list(CaptionFiles.check_config({**defaults, **given})) == []

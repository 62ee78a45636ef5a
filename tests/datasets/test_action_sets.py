"""Official lists in miniature; the videos are only looked for."""

import json

import pytest

from perception.datasets.action_sets import HMDB51, UCF101, Diving48, Kinetics, SomethingSomethingV2
from perception.errors import DataError
from perception.registry import DATASETS


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path / "cache"))


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text if isinstance(text, str) else json.dumps(text))
    return str(root)


def paths(data, root):
    return [record.path.relative_to(root).as_posix() for record in data.records]


def test_ucf101(tmp_path):
    clips = ["Archery/v_Archery_g01_c01.avi", "Basketball/v_Basketball_g08_c02.avi"]
    lists = {
        "ucfTrainTestlist/classInd.txt": "2 Basketball\n1 Archery\n",
        "ucfTrainTestlist/trainlist02.txt": f"{clips[1]} 2\n",
        "ucfTrainTestlist/testlist02.txt": f"{clips[0]}\r\n",
    }
    root = write(tmp_path, {**lists, **{f"UCF-101/{clip}": "" for clip in clips}})
    train, test = (UCF101(split, fold=2, root=root) for split in ("train", "test"))
    assert train.classes == ("Archery", "Basketball") and train.targets.tolist() == [1] and test.targets.tolist() == [0]
    assert paths(test, tmp_path) == [f"UCF-101/{clips[0]}"]
    with pytest.raises(DataError, match=r"trainlist01\.txt' cannot be read"):
        UCF101("train", root=root)
    with pytest.raises(DataError, match="must be 1 to 3"):
        UCF101("train", fold=4, root=root)
    write(tmp_path, {"ucfTrainTestlist/testlist02.txt": "Arxhery/v.avi\n"})
    with pytest.raises(DataError, match=r"line 1: class 'Arxhery'.*nearest is 'Archery'"):
        UCF101("test", fold=2, root=root)


def test_hmdb51(tmp_path):
    folder = "testTrainMulti_7030_splits"
    files = {
        f"{folder}/wave_test_split1.txt": "a.avi 1 \nb.avi 2 \nc.avi 0 \n",
        f"{folder}/brush_hair_test_split1.txt": "d.avi 2 \n",
        f"{folder}/wave_test_split2.txt": "a.avi 3\n",
    }
    videos = {f"videos/wave/{name}.avi": "" for name in "abc"} | {"videos/brush_hair/d.avi": ""}
    root = write(tmp_path, files | videos)
    test = HMDB51("test", root=root)
    assert test.classes == ("brush_hair", "wave") and test.targets.tolist() == [0, 1]
    assert paths(test, tmp_path) == ["videos/brush_hair/d.avi", "videos/wave/b.avi"]
    assert paths(HMDB51("train", root=root), tmp_path) == ["videos/wave/a.avi"]
    with pytest.raises(DataError, match=r"line 1: 'a\.avi 3'"):
        HMDB51("train", fold=2, root=root)


def test_kinetics_counts_what_is_gone(tmp_path):
    head = "label,youtube_id,time_start,time_end,split\n"
    files = {
        "train.csv": head + "abseiling,-aaa,7,17,train\nzumba,ccc,0,10,train\n",
        "val.csv": head + "zumba,bbb,12,22,val\nzumba,gone,1,11,val\n",
        "train/abseiling/-aaa_000007_000017.mp4": "",
        "train/zumba/ccc_000000_000010.mp4": "",
        "val/bbb_000012_000022.mp4": "",
    }
    root = write(tmp_path, files)
    train = Kinetics("train", root=root)
    assert train.classes == ("abseiling", "zumba") and train.targets.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"1 of 2 videos cannot be used: .*gone_000001_000011\.mp4: does not exist"):
        Kinetics("val", root=root)
    write(tmp_path, {"val.csv": head + "zumba,bbb,12,22,val\n"})
    assert Kinetics("val", root=root).targets.tolist() == [1]  # numbered as in train.csv
    write(tmp_path, {"val.csv": head + "zumbaa,bbb,12,22,val\n"})
    with pytest.raises(DataError, match="nearest is 'zumba'"):
        Kinetics("val", root=root)
    write(tmp_path, {"val.csv": head + "zumba,bbb,x,22,val\n"})
    with pytest.raises(DataError, match="line 2: a time"):
        Kinetics("val", root=root)


@pytest.mark.parametrize("prefix", ["labels/", "labels/something-something-v2-", "something-something-v2-"])
def test_something_something(tmp_path, prefix):
    names = {"Pushing something": "1", "Holding something": "0"}
    row = {"id": "74225", "label": "pushing a cup", "template": "Pushing [something]"}
    files = {f"{prefix}labels.json": names, f"{prefix}validation.json": [row], f"{prefix}test.json": [{"id": "9"}]}
    videos = {f"20bn-something-something-v2/{name}.webm": "" for name in ("74225", "9")}
    root = write(tmp_path, files | videos)
    val = SomethingSomethingV2("val", root=root)
    assert val.classes == ("Holding something", "Pushing something") and val.targets.tolist() == [1]
    assert paths(val, tmp_path) == ["20bn-something-something-v2/74225.webm"]
    assert SomethingSomethingV2("test", root=root).targets.tolist() == [-1]
    with pytest.raises(DataError, match=r"has neither labels/train\.json nor"):
        SomethingSomethingV2("train", root=root)


def test_diving48(tmp_path):
    files = {
        "Diving48_vocab.json": [["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "15Twis", "FREE"]],
        "Diving48_V2_train.json": [{"vid_name": "a_01", "label": 1, "start_frame": 0, "end_frame": 99}],
        "Diving48_V2_test.json": [{"vid_name": "a_01", "label": 2}],
        "rgb/a_01.mp4": "",
    }
    root = write(tmp_path, files)
    train = Diving48("train", root=root)
    assert train.classes == ("Back/15som/05Twis/FREE", "Back/15som/15Twis/FREE") and train.targets.tolist() == [1]
    with pytest.raises(DataError, match="label 2 of 'a_01' is out of range"):
        Diving48("test", root=root)
    write(tmp_path, {"Diving48_V2_test.json": [{"vid": "a"}]})
    with pytest.raises(DataError, match="has no 'vid_name'"):
        Diving48("test", root=root)
    write(tmp_path, {"Diving48_V2_test.json": "{"})
    with pytest.raises(DataError, match="no JSON"):
        Diving48("test", root=root)


@pytest.mark.parametrize("name", ["UCF101", "HMDB51", "Kinetics", "SomethingSomethingV2", "Diving48"])
def test_without_data_the_place_is_named(name, tmp_path):
    cls = DATASETS.get(name)
    cfg = dict(split="train", fold=1, root=str(tmp_path), frames=16, stride=4, sampling="random", views=1, crops=1)
    cfg |= dict(size=None, short_side=None, first_seconds=None, repeats=1, on_error="raise")
    cfg |= dict(backends=["decord"], timeout=3.0)
    assert [key for key, _ in cls.check_config(cfg)] == ["root"]
    assert [key for key, _ in cls.check_config({**cfg, "fold": 9})] == ["fold"]
    with pytest.raises(DataError, match="must hold"):
        cls(root=str(tmp_path / "none"))

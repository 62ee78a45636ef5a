from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from perception.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    load_state,
    model_state,
    save_checkpoint,
)
from perception.errors import CheckpointError


class Payload:
    """Code that a foreign checkpoint would run: it leaves a file behind."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


def test_round_trip_leaves_no_other_file(tmp_path: Path) -> None:
    saved = {"state_dict": {"w": torch.arange(6.0).reshape(2, 3)}, "meta": {"step": 3, "names": ["a", (1, 2)]}}
    path = save_checkpoint(saved, tmp_path / "new" / "step_00000003.pth")
    assert os.listdir(path.parent) == ["step_00000003.pth"]
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["w"], saved["state_dict"]["w"])
    assert loaded["meta"] == saved["meta"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = save_checkpoint({"a": torch.ones(2)}, tmp_path / "step_00000001.pth")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(CheckpointError, match=r"step_00000001.pth.*No space left on device.*untouched"):
        save_checkpoint({"a": torch.zeros(2)}, path)
    monkeypatch.undo()
    assert torch.equal(load_checkpoint(path)["a"], torch.ones(2))
    assert os.listdir(tmp_path) == ["step_00000001.pth"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_write_that_the_kernel_refuses_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    path = save_checkpoint({"a": torch.ones(2)}, tmp_path / "c.pth")
    real = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda file, mode="r", *a, **k: real("/dev/full" if mode == "wb" else file, mode, *a, **k)
    )
    with pytest.raises(CheckpointError, match="could not be written"):
        save_checkpoint({"a": torch.zeros(1000_000)}, path)
    monkeypatch.undo()
    assert torch.equal(load_checkpoint(path)["a"], torch.ones(2))


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        save_checkpoint({}, tmp_path / "file" / "c.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused_by_name_and_not_run(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "foreign.pth"
    mark = tmp_path / "was_run"
    torch.save({"w": torch.ones(1), "x": Payload(str(mark))}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"foreign.pth.*posix.mkdir") as caught:
        load_checkpoint(path)
    assert "trust=True" in str(caught.value)
    assert not mark.exists()
    load_checkpoint(path, trust=True)
    assert mark.exists()


def test_whole_pickled_module_is_named(tmp_path: Path) -> None:
    path = tmp_path / "module.pth"
    torch.save({"model": nn.Linear(2, 2)}, path)
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_cut_file_is_called_damaged(tmp_path: Path, keep: float) -> None:
    path = save_checkpoint({"a": torch.randn(1000)}, tmp_path / "cut.pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(CheckpointError, match=r"cut.pth.*(damaged|no checkpoint)"):
        load_checkpoint(path)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = save_checkpoint({"a": torch.zeros(1000)}, tmp_path / "flip.pth")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="checksum"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"just text", b"\x80\x02}q\x00."])
def test_other_files_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        load_checkpoint(path)


def test_missing_file() -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint("/nowhere/x.pth")


def test_find_goes_back_to_the_newest_that_opens_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    for step in (9, 10, 100):
        save_checkpoint({"step": step}, folder / f"step_{step:08d}.pth")
    assert find_checkpoint(tmp_path / "run").name == "step_00000100.pth"
    (folder / "step_00000100.pth").write_bytes(b"PK torn")
    with pytest.warns(UserWarning, match=r"went back to step_00000010.pth.*step_00000100.pth"):
        assert find_checkpoint(tmp_path / "run").name == "step_00000010.pth"
    for path in folder.glob("*.pth"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint opens"):
        find_checkpoint(tmp_path / "run")


def test_find_looks_into_the_only_seed(tmp_path: Path) -> None:
    path = save_checkpoint({}, tmp_path / "seed_3" / "checkpoints" / "step_00000001.pth")
    assert find_checkpoint(tmp_path) == path
    assert find_checkpoint(path) == path
    save_checkpoint({}, tmp_path / "seed_4" / "checkpoints" / "step_00000001.pth")
    with pytest.raises(CheckpointError, match="2 runs"):
        find_checkpoint(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        find_checkpoint(tmp_path / "empty")


def test_mismatch_lists_everything_and_copies_nothing() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    state = {
        "0.weight": torch.zeros(4, 5),
        "0.bias": torch.zeros(4),
        "1.weight": torch.zeros(2, 4),
        "head": torch.zeros(1),
    }
    with pytest.raises(CheckpointError) as caught:
        load_state(module, state, source="file.pth")
    text = str(caught.value)
    assert "file.pth" in text and "1.bias" in text and "head" in text
    assert "0.weight: (4, 5) in the file, (4, 3) in the model" in text
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())

    mismatch = load_state(module, state, source="file.pth", strict=False)
    assert mismatch.missing == ("1.bias",) and mismatch.unexpected == ("head",) and set(mismatch.shapes) == {"0.weight"}
    assert torch.equal(module[1].weight, torch.zeros(2, 4))
    assert torch.equal(module[0].weight, before["0.weight"])


def test_fitting_state_gives_no_mismatch() -> None:
    assert not load_state(nn.Linear(2, 2), nn.Linear(2, 2).state_dict(), source="x")


def test_model_state_prefers_the_average() -> None:
    checkpoint = {"state_dict": {"w": torch.zeros(1), "n": torch.tensor(3)}, "ema": {"w": torch.ones(1)}}
    assert model_state(checkpoint)["w"] == 1 and model_state(checkpoint)["n"] == 3
    assert model_state(checkpoint, averaged=False)["w"] == 0
    assert set(model_state({"a": torch.ones(1), "epoch": 3})) == {"a"}


def test_a_torchscript_archive_is_named_for_what_it_is(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        load_checkpoint(tmp_path / "clip.pt")
    torch.save(torch.jit.load(tmp_path / "clip.pt").state_dict(), tmp_path / "weights.pt")
    assert set(load_checkpoint(tmp_path / "weights.pt")) == {"weight", "bias"}

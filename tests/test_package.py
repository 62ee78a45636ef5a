"""What is installed, and what importing it costs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import perception

ROOT = Path(perception.__file__).resolve().parent.parent
ROOMS = ("graphs", "datasets", "configs")
needs_checkout = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="needs the checkout, this is an installed package"
)


def python(code: str, cwd: Path = ROOT) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HELP = "from perception.cli import main; main(['--help'])"


@pytest.mark.parametrize("statement", ["import perception", "import perception.config", HELP])
def test_starting_loads_no_torch_and_is_quick(statement: str) -> None:
    code = f"""
import contextlib, io, sys, time
start = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    {statement}
print(time.perf_counter() - start)
print([m for m in ("torch", "numpy", "sklearn", "torch_geometric") if m in sys.modules])
"""
    results = [python(code).splitlines() for _ in range(3)]
    loaded = results[0][1]
    if statement == "import perception.config":
        assert "torch'" not in loaded  # mmengine's config takes numpy along
    else:
        assert loaded == "[]"
        assert min(float(r[0]) for r in results) < 0.3


def test_public_names_are_listed() -> None:
    assert {"load_backbone", "export_backbone", "load_config", "__version__"} <= set(dir(perception))
    with pytest.raises(AttributeError, match="no_such_name"):
        perception.no_such_name  # noqa: B018


@needs_checkout
def test_datasets_of_others_are_not_shadowed(tmp_path: Path) -> None:
    """From the checkout's root ``import datasets`` finds a regular package of that name if one is installed."""
    theirs = tmp_path / "datasets"
    theirs.mkdir()
    (theirs / "__init__.py").write_text("WHOSE = 'theirs'\n")
    found = python(f"import sys; sys.path.append({str(tmp_path)!r})\nimport datasets; print(datasets.WHOSE)")
    assert found == "theirs"
    if importlib.util.find_spec("datasets") is not None and importlib.util.find_spec("datasets").origin:
        assert str(ROOT) not in python("import datasets; print(datasets.__file__)")


@needs_checkout
def test_rooms_are_found_without_symlinks(tmp_path: Path) -> None:
    """A checkout on a system without symlinks has files where the links would be."""
    shutil.copytree(ROOT / "perception", tmp_path / "perception", symlinks=True, ignore=_caches)
    for room in ROOMS:
        (tmp_path / "perception" / room).unlink()
        (tmp_path / "perception" / room).write_text(f"../{room}")
        shutil.copytree(ROOT / room, tmp_path / room, ignore=_caches)
    code = "import perception.datasets.base as b, perception.config as c; print(b.__file__); print(c.config_root())"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(tmp_path / "datasets" / "base.py"), str(tmp_path / "configs")], done.stderr


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """File names of a wheel that is built from a copy, so that nothing is left in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("perception", *ROOMS, "tests", "tools"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=_caches)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "out", "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (copy / "out").glob("perception_lab-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def _caches(folder: str, names: list[str]) -> set[str]:
    return {n for n in names if n in ("__pycache__", "runs", "build") or n.endswith(".egg-info")}


@needs_checkout
def test_wheel_holds_every_module_and_config(wheel_names: set[str]) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "perception").rglob("*.py")
        if "__pycache__" not in path.parts and not (set(path.relative_to(ROOT / "perception").parts[:1]) & set(ROOMS))
    }
    for room in ROOMS:
        expected |= {f"perception/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / room).rglob("*.py")}
    expected.add("perception/py.typed")
    assert not expected - wheel_names, sorted(expected - wheel_names)


@needs_checkout
def test_wheel_holds_no_test_tool_or_data(wheel_names: set[str]) -> None:
    allowed = {".py", ".md", ".typed"}
    inside = {n for n in wheel_names if ".dist-info/" not in n}
    assert all(n.startswith("perception/") for n in inside), sorted(n for n in inside if not n.startswith("perc"))
    assert all(Path(n).suffix in allowed for n in inside), sorted(n for n in inside if Path(n).suffix not in allowed)
    assert not [n for n in inside if "/tests/" in n or Path(n).name.startswith(("test_", "conftest"))]


@needs_checkout
def test_wheel_declares_the_command(wheel_names: set[str]) -> None:
    assert [n for n in wheel_names if n.endswith(".dist-info/entry_points.txt")]
    assert [n for n in wheel_names if ".dist-info/" in n and n.endswith("LICENSE")]

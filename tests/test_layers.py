"""A lower layer never imports a higher one, and no module imports itself through others."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import perception

ROOT = Path(perception.__file__).resolve().parent
# Lowest first; layers on one line may import each other. The longest matching prefix decides.
LAYERS = [
    ["errors", "registry", "checkpoint", "signatures", "", "geometry", "losses", "layers"],
    ["config", "sections", "validation"],
    ["transforms", "datasets", "graphs.readers"],
    ["backbones", "text", "graphs", "graphs.encoders"],
    ["exporting"],
    ["pretext", "tasks", "graphs.pretexts"],
    ["evaluation"],
    ["engine"],
    ["cli", "__main__"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# mmengine asks a registry to build a backbone; the registry hands it to the builder, imported when it is called.
# Names that the package gives lazily lead upward by design.
ALLOWED = {("registry", "exporting"), ("", "config"), ("", "exporting")}


def modules() -> dict[str, Path]:
    """Dotted name without ``perception.`` -> file, of everything but configs."""
    found = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        found[name] = path
    for room in ("graphs", "datasets"):  # rglob does not follow the symlinks
        for path in (ROOT / room).resolve().rglob("*.py"):
            parts = path.relative_to((ROOT / room).resolve()).with_suffix("").parts
            found[".".join((room, *parts)).removesuffix(".__init__")] = path
    return {n: p for n, p in found.items() if not n.startswith("configs")}


MODULES = modules()


def rank(module: str) -> int:
    """Layer of a module by its longest listed prefix."""
    parts = module.split(".")
    for count in range(len(parts), -1, -1):
        prefix = ".".join(parts[:count])
        if prefix in RANK and (prefix or not module):
            return RANK[prefix]
    raise AssertionError(f"perception.{module} belongs to no layer: add its room to LAYERS")


def target_of(name: str) -> str | None:
    """Module that an import of ``perception.<name>`` reaches; the last part may be a class or function."""
    if name in MODULES:
        return name
    parent = name.rpartition(".")[0]
    return parent if parent in MODULES or not parent else None


def imports(path: Path, module: str, top_only: bool) -> set[str]:
    """Modules of ours that a file imports, those needed for type checking alone left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            stack.extend(node.orelse)
            continue
        if top_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute in this library"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name == "perception" or name.startswith("perception."):
                target = target_of(name.removeprefix("perception").removeprefix("."))
                if target is not None and target != module:
                    found.add(target)
        stack.extend(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_import_points_upward(module: str) -> None:
    wrong = [
        target
        for target in sorted(imports(MODULES[module], module, top_only=False))
        if rank(target) > rank(module) and (module, target) not in ALLOWED
    ]
    assert not wrong, f"perception.{module} (layer {rank(module)}) imports higher layers: {wrong}"


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: imports(path, name, top_only=True) for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, chain: tuple[str, ...]) -> None:
        assert name not in chain, "circle of imports: " + " -> ".join((*chain[chain.index(name) :], name))
        if name in done:
            return
        for target in sorted(graph[name]):
            visit(target, (*chain, name))
        done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_pure_maths_needs_no_framework() -> None:
    """``geometry``, ``losses`` and ``layers`` are functions of tensors: no mmengine, of ours each other and errors."""
    for name, path in MODULES.items():
        if name.split(".")[0] not in ("geometry", "losses", "layers"):
            continue
        ours = {t.split(".")[0] for t in imports(path, name, top_only=False)}
        assert ours <= {"geometry", "losses", "layers", "errors"}, f"{name} imports {ours}"
        assert "mmengine" not in path.read_text(encoding="utf-8"), name


def test_every_room_is_walked() -> None:
    rooms = {name.split(".")[0] for name in MODULES}
    assert {"backbones", "cli", "datasets", "engine", "evaluation", "graphs", "losses", "pretext", "tasks"} <= rooms


def test_modality_folders_are_namespaces() -> None:
    """A regular package called ``datasets`` would shadow Hugging Face's."""
    for room in ("graphs", "datasets", "configs"):
        assert not (ROOT.parent / room / "__init__.py").exists()

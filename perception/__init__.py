"""Self-supervised pre-training of domain-specific multimodal backbones.

``import perception`` loads no torch: the public names below are imported when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_backbone": "perception.exporting",
    "export_backbone": "perception.exporting",
    "load_config": "perception.config",
}
__all__ = ["__version__", *_PUBLIC]

_root = Path(__file__).resolve().parent.parent
if not (Path(__file__).resolve().parent / "datasets").is_dir() and (_root / "datasets").is_dir():
    # Checkouts on systems without symlinks: find graphs/, datasets/ and configs/ beside the package.
    __path__.append(str(_root))

if TYPE_CHECKING:
    from perception.config import load_config as load_config
    from perception.exporting import export_backbone as export_backbone
    from perception.exporting import load_backbone as load_backbone


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'perception' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

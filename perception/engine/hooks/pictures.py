"""Pictures of what a method does, always of the same samples."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook

from perception.datasets.base import SampleKey
from perception.engine.console import say
from perception.engine.randomness import isolated_rng
from perception.errors import PerceptionError
from perception.layers.eval_mode import eval_mode
from perception.registry import HOOKS
from perception.signatures import at_least


@HOOKS.register_module()
class PicturesHook(Hook):
    """Writes ``model.pictures(batch)`` to ``pictures/<name>_<step>.png``, films to ``.gif``, on the first rank.

    The samples are the first ones of the training set, the random numbers are the same every time, and neither the
    model's mode nor any random state outside is changed: training goes on as if nobody had looked.

    Args:
        interval: epochs between pictures; ``None`` for the end of training only.
        count: samples to show.
    """

    priority = "LOW"

    def __init__(self, interval: int | None = None, count: int = 8) -> None:
        self.interval = interval
        self.count = count

    @classmethod
    def check_config(cls, cfg: dict[str, Any]) -> Iterable[tuple[str, str]]:
        """A positive interval, and something to show."""
        return at_least(cfg, 1, "interval", "count")

    def after_train_epoch(self, runner: Any) -> None:
        """Pictures on the way."""
        if self.interval and runner.epoch % self.interval == 0 and runner.iter < runner.max_iters:
            self._draw(runner)

    def after_train(self, runner: Any) -> None:
        """Pictures of the end."""
        self._draw(runner)

    @torch.no_grad()
    def _draw(self, runner: Any) -> None:
        model = runner.bare_model
        if runner.rank != 0 or not hasattr(model, "pictures"):
            return
        loader = runner.train_dataloader
        keys = [SampleKey(i, 0) for i in range(min(self.count, len(loader.dataset)))]
        with eval_mode(model), isolated_rng(seed=runner.seed), runner.averaged_weights():
            items = loader.dataset
            raw = items.__getitems__(keys) if hasattr(items, "__getitems__") else [items[key] for key in keys]
            (batch,) = model.data_preprocessor(loader.collate_fn(raw), False)
            pictures = model.pictures(batch)
        for name, picture in pictures.items():
            film = picture.ndim == 4
            file = Path(runner.work_dir) / "pictures" / f"{name}_{runner.iter:08d}.{'gif' if film else 'png'}"
            (write_gif if film else write_png)(file, picture)
        if pictures and runner.iter >= runner.max_iters:
            say(f"{len(pictures)} picture{'s' if len(pictures) > 1 else ''} in {Path(runner.work_dir) / 'pictures'}")


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a uint8 picture (H, W, 3) in RGB, or (H, W) in grey."""
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    written = cv2.imwrite(str(path), picture[..., ::-1] if picture.ndim == 3 else picture)
    if not written:
        raise PerceptionError(f"picture {str(path)!r} could not be written")


def write_gif(path: Path, film: np.ndarray, milliseconds: int = 200) -> None:
    """Write a uint8 film (F, H, W, 3) in RGB that repeats for ever, every frame shown for ``milliseconds``."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = (Image.fromarray(frame) for frame in film)
    first.save(path, save_all=True, append_images=rest, duration=milliseconds, loop=0)

"""Pictures of ``perception report``: loss curves and maps of the embeddings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.cli._runs import open_run
from perception.errors import PerceptionError
from perception.evaluation.embedding_maps import project, row_of_panels, save_figure, scatter_map


def draw(name: str, folders: Sequence[Path], out: Path, kind: str) -> list[Path]:
    """Draw what can be drawn of a run: curves of all seeds, the embedding map of the first one, attention of video.

    Args:
        name: name of the run.
        folders: its run folders.
        out: folder of the pictures.
        kind: ``pca`` or ``tsne``.

    Returns:
        The files written.
    """
    out.mkdir(parents=True, exist_ok=True)
    stem = name.replace("/", "_")
    written = []
    scalars = {folder.name: read_scalars(folder / "scalars.jsonl") for folder in folders}
    if any(scalars.values()):
        written.append(loss_curves(name, scalars, out / f"{stem}_loss.png"))
    mapped = embedding_map(name, folders[0], out / f"{stem}_{kind}.png", kind)
    written += [] if mapped is None else [mapped]
    return [*written, *attention(folders[0], out, stem)]


def read_scalars(file: Path) -> list[dict[str, Any]]:
    """Lines of a ``scalars.jsonl``; a last line that a kill has cut is left out."""
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number != len(lines) - 1:
                raise PerceptionError(f"{file}:{number + 1} is damaged: {error}") from error
    return found


def loss_curves(name: str, scalars: dict[str, list[dict[str, Any]]], file: Path) -> Path:
    """Every loss over the steps, one line per seed, and online probes in a panel of their own."""
    keys = sorted({key for lines in scalars.values() for line in lines for key in line})
    losses = [key for key in keys if "loss" in key]
    probes = [key for key in keys if key.startswith(("probe/", "val/"))]
    panels = [group for group in (losses, probes) if group]
    figure, axes = row_of_panels(len(panels) or 1)
    for axis, group in zip(axes, panels, strict=False):
        for key in group:
            for number, (seed, lines) in enumerate(scalars.items()):
                points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
                if points:
                    label = f"{key}, {seed}" if len(scalars) > 1 else key
                    style = "-" if len(points) > 1 else "o"
                    axis.plot(*zip(*points, strict=True), style, label=label, alpha=0.9 - 0.15 * min(number, 4))
        axis.set_xlabel("step")
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.suptitle(name)
    return save_figure(figure, file)


def embedding_map(name: str, folder: Path, file: Path, kind: str, most: int = 2000) -> Path | None:
    """Two-dimensional map of the test split's embeddings, coloured by class; None for runs without labelled data."""
    from perception.config import plain
    from perception.evaluation.features import build_dataset, extract
    from perception.exporting import load_backbone

    section = plain(open_run(folder).config.get("evaluation") or {})
    split = _shown_split(section)
    if split is None:
        return None
    dataset = build_dataset(split)
    if not len(dataset) or "label" not in dataset[0]:
        return None
    backbone = load_backbone(folder)
    found = extract(backbone, dataset, section.get("feature"), section.get("batch_size") or 500)["backbone"]
    rows = np.linspace(0, len(found) - 1, min(most, len(found))).astype(int)
    x, y = found.x.numpy()[rows], found.y.numpy()[rows]
    title = f"{name}, {folder.name}: {'t-SNE' if kind == 'tsne' else 'PCA'} of {len(x)} embeddings"
    return scatter_map(project(x, kind), y, title, file)


def attention(folder: Path, out: Path, stem: str, count: int = 4) -> list[Path]:
    """Strips and a film of where a video encoder looks in ``count`` clips spread over the test split; else nothing."""
    from perception.backbones.video_vit import VideoViT
    from perception.config import plain
    from perception.engine.hooks.pictures import write_gif, write_png
    from perception.evaluation.features import build_dataset
    from perception.exporting import load_backbone
    from perception.pretext.video_pictures import attention_over_time

    config = plain(open_run(folder).config)
    loader = config.get("test_dataloader") or {}
    split = _shown_split(config.get("evaluation") or {}) or loader.get("dataset")
    kind = (config["model"].get("backbone") or {}).get("type")
    if split is None or kind != VideoViT.__name__:
        return []
    vit = load_backbone(folder)
    assert isinstance(vit, VideoViT)
    dataset = build_dataset(split)
    rows = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist()
    pictures = attention_over_time(vit, vit.preprocess(dataset.__getitems__(rows)), count)
    written = []
    for name, picture in pictures.items():
        film = picture.ndim == 4
        written.append(out / f"{stem}_{name}.{'gif' if film else 'png'}")
        (write_gif if film else write_png)(written[-1], picture)
    return written


def _shown_split(section: dict[str, Any]) -> Any:
    """The split of the evaluation section that is shown, None without one."""
    return next((section[key] for key in ("test", "all") if section.get(key)), None)

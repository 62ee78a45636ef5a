"""One HTML file with a driving scene to look at: no other file and no library is needed."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perception.checkpoint import write_text
from perception.evaluation.driving_pictures import _array, finite_boxes, region_colours, scene_pictures
from perception.geometry.boxes import bev_corners, count_points

STEP = 0.01  # metres: positions are stored as whole centimetres in 16 bits
JPEG_QUALITY = 85


def write_page(
    batch: Mapping[str, Any],
    file: Path,
    sample: int = 0,
    predicted: Mapping[str, np.ndarray] | None = None,
    forward: str = "x",
    title: str = "Driving scene",
    most_points: int = 60_000,
    figures: Mapping[str, np.ndarray] | None = None,
    camera_points: bool = True,
) -> Path:
    """Write a page with a map that can be moved and zoomed, and the cameras below it.

    The map colours points by height, intensity or region, shows and hides true and predicted boxes, and tells class,
    size, score and number of points of the box under the pointer. Boxes that are not finite are left out, and counted
    on the page. The file is written whole or not at all.

    Args:
        batch: a batch of a driving data set.
        file: the HTML file.
        sample: which sample of the batch.
        predicted: ``boxes`` (K, 7) and, if known, ``box_label`` (K,) and ``score`` (K,).
        forward: axis that points up, see ``map_picture``.
        title: heading.
        most_points: of more points every n-th is taken; the page says so.
        figures: further pictures uint8 (H, W, 3) RGB by name, behind the cameras.
        camera_points: draw the points over the cameras, too.
    """
    points = _array(batch, "points", sample)
    points = np.zeros((0, 4), np.float32) if points is None else points
    step = max(-(-len(points) // most_points), 1)
    classes = list(batch.get("meta", {}).get("classes", ()))
    region = _array(batch, "region", sample)
    data: dict[str, Any] = {
        "forward": forward,
        "step": STEP,
        "xyz": _packed(np.clip(points[::step, :3] / STEP, -32767, 32767).round().astype("<i2")),
        "intensity": _packed(_bytes(points[::step, 3] if points.shape[1] > 3 else np.zeros(len(points[::step])))),
        "region": None if region is None else _packed(region_colours(region[::step])),
    }
    true = _array(batch, "boxes", sample)
    drawn = None if predicted is None else np.asarray(predicted["boxes"])
    label, score = (None, None) if predicted is None else (predicted.get("box_label"), predicted.get("score"))
    data["truth"] = _boxes(true, _array(batch, "box_label", sample), None, points, classes)
    data["predicted"] = _boxes(drawn, label, score, points, classes)
    pictures = scene_pictures(batch, sample, drawn, forward, camera_points=camera_points) | dict(figures or {})
    cameras = "".join(
        f'<figure><img alt="{html.escape(name)}" src="data:image/jpeg;base64,{_jpeg(picture)}">'
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        for name, picture in pictures.items()
        if name not in ("map", "regions")
    )
    told = f"{len(points):,} points" + (f", every {step}th of them shown" if step > 1 else "")
    for name, boxes in (("true", true), ("predicted", drawn)):
        if boxes is not None and not finite_boxes(boxes).all():
            bad = int((~finite_boxes(boxes)).sum())
            told += f"; {bad} of {len(boxes)} {name} boxes left out: not finite"
    page = _PAGE
    for key, value in (
        ("@TITLE@", html.escape(title)),
        ("@TOLD@", told),
        ("@CAMERAS@", cameras),
        ("@DATA@", json.dumps(data, allow_nan=False).replace("<", "\\u003c")),
    ):
        page = page.replace(key, value)
    write_text(file, page)
    return file


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _bytes(values: np.ndarray) -> np.ndarray:
    """Values scaled so that their 99th percentile is 255."""
    top = float(np.percentile(values, 99)) if len(values) else 1.0
    return np.clip(255 * values / max(top, 1e-9), 0, 255).astype(np.uint8)


def _jpeg(picture: np.ndarray) -> str:
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    return base64.b64encode(
        cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), options)[1].tobytes()
    ).decode()


def _boxes(
    boxes: np.ndarray | None, label: Any, score: Any, points: np.ndarray, classes: list[str]
) -> list[dict[str, Any]]:
    """What the page shows of every box."""
    if boxes is None or not len(boxes):
        return []
    shown = finite_boxes(boxes)
    boxes = np.asarray(boxes, dtype=np.float64)[shown]
    label, score = (None if value is None else np.asarray(value)[shown] for value in (label, score))
    corners, counts = bev_corners(boxes), count_points(points, boxes)
    front = boxes[:, :2] + boxes[:, 3:4] / 2 * np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=1)
    rows = []
    for number, box in enumerate(boxes):
        name = "box" if label is None else str(int(label[number]))
        if label is not None and 0 <= int(label[number]) < len(classes):
            name = classes[int(label[number])]
        text = f"{name}, {box[3]:.1f} x {box[4]:.1f} x {box[5]:.1f} m, {counts[number]} points"
        if score is not None:
            text += f", score {float(score[number]):.2f}"
        rows.append(
            {
                "c": corners[number].round(3).tolist(),
                "m": box[:2].round(3).tolist(),
                "f": front[number].round(3).tolist(),
                "t": text,
            }
        )
    return rows


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title>
<style>
body { margin: 0; background: #121418; color: #d8dae0; font: 14px sans-serif }
header { padding: 8px 12px; display: flex; gap: 16px; flex-wrap: wrap; align-items: center }
h1 { font-size: 16px; margin: 0 }
#map { display: block; width: 100%; height: 70vh; cursor: grab }
#hover { min-height: 1.3em; padding: 4px 12px; color: #ffd479 }
#cameras { display: grid; grid-template-columns: repeat(auto-fit, minmax(360px, 1fr)); gap: 6px; padding: 6px }
figure { margin: 0 } img { width: 100% } figcaption { font-size: 12px; color: #9a9daa }
</style></head><body>
<header><h1>@TITLE@</h1><span>@TOLD@</span>
<label>colour <select id="colour"><option value="height">height</option><option value="intensity">intensity</option>
<option value="region">region</option></select></label>
<label><input type="checkbox" id="truth" checked> true boxes (green)</label>
<label><input type="checkbox" id="predicted" checked> predicted boxes (orange)</label>
<span>wheel: zoom, drag: move, double click: start again</span></header>
<canvas id="map"></canvas><div id="hover"></div><div id="cameras">@CAMERAS@</div>
<script>
"use strict";
const data = @DATA@;
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const xyz = new Int16Array(bytes(data.xyz).buffer), intensity = bytes(data.intensity);
const region = data.region === null ? null : bytes(data.region), count = xyz.length / 3;
const canvas = document.getElementById("map"), pen = canvas.getContext("2d");
const colour = document.getElementById("colour"), hover = document.getElementById("hover");
if (region === null) colour.querySelector('[value="region"]').remove();
let scale = 8, middle = [0, 0], over = null, grip = null;
const flat = data.forward === "x" ? (x, y) => [-y, -x] : (x, y) => [x, -y];
const place = (x, y) => {
  const p = flat(x, y);
  return [canvas.width / 2 + (p[0] - middle[0]) * scale, canvas.height / 2 + (p[1] - middle[1]) * scale];
};
const ramp = t => [3, 2, 1].map(c => 255 * Math.min(1, Math.max(0, 1.5 - Math.abs(4 * t - c))));
function points() {
  const image = pen.createImageData(canvas.width, canvas.height), out = image.data;
  const dot = scale > 25 ? 3 : scale > 12 ? 2 : 1;
  for (let i = 0; i < out.length; i += 4) { out[i] = 18; out[i + 1] = 20; out[i + 2] = 24; out[i + 3] = 255; }
  for (let i = 0; i < count; i++) {
    const [u, v] = place(xyz[3 * i] * data.step, xyz[3 * i + 1] * data.step).map(Math.floor);
    let c;
    if (colour.value === "region") c = region.subarray(3 * i, 3 * i + 3);
    else if (colour.value === "intensity") c = ramp(intensity[i] / 255);
    else c = ramp(Math.min(1, Math.max(0, (xyz[3 * i + 2] * data.step + 2.5) / 4.5)));
    for (let a = 0; a < dot; a++) for (let b = 0; b < dot; b++) {
      if (u + a < 0 || u + a >= canvas.width || v + b < 0 || v + b >= canvas.height) continue;
      const at = 4 * ((v + b) * canvas.width + u + a);
      out[at] = c[0]; out[at + 1] = c[1]; out[at + 2] = c[2];
    }
  }
  pen.putImageData(image, 0, 0);
}
function boxes(list, style) {
  for (const box of list) {
    pen.strokeStyle = box === over ? "#ffd479" : style;
    pen.lineWidth = box === over ? 2.5 : 1.3;
    pen.beginPath();
    box.c.forEach((p, i) => { const q = place(p[0], p[1]); i ? pen.lineTo(q[0], q[1]) : pen.moveTo(q[0], q[1]); });
    pen.closePath();
    pen.moveTo(...place(box.m[0], box.m[1])); pen.lineTo(...place(box.f[0], box.f[1]));
    pen.stroke();
  }
}
const shown = name => document.getElementById(name).checked ? data[name] : [];
function draw() {
  points();
  pen.strokeStyle = "#3a3f48"; pen.lineWidth = 1;
  for (let r = 10; r <= 100; r += 10) {
    pen.beginPath(); pen.arc(...place(0, 0), r * scale, 0, 7); pen.stroke();
  }
  boxes(shown("truth"), "#3cdc5a"); boxes(shown("predicted"), "#ff7828");
  hover.textContent = over ? over.t : "";
}
function fit() { canvas.width = canvas.clientWidth; canvas.height = canvas.clientHeight; draw(); }
function within(box, u, v) {
  let inside = false;
  const ring = box.c.map(p => place(p[0], p[1]));
  for (let i = 0, j = 3; i < 4; j = i++) {
    const [a, b] = ring[i], [c, d] = ring[j];
    if ((b > v) !== (d > v) && u < (c - a) * (v - b) / (d - b) + a) inside = !inside;
  }
  return inside;
}
canvas.onwheel = e => {
  e.preventDefault();
  const factor = Math.exp(-0.0015 * e.deltaY), next = Math.min(200, Math.max(1, scale * factor));
  const away = [e.offsetX - canvas.width / 2, e.offsetY - canvas.height / 2];
  middle = middle.map((m, i) => m + away[i] / scale - away[i] / next);
  scale = next; draw();
};
canvas.onmousedown = e => { grip = [e.offsetX, e.offsetY, ...middle]; };
window.onmouseup = () => { grip = null; };
canvas.onmousemove = e => {
  if (grip) {
    middle = [grip[2] - (e.offsetX - grip[0]) / scale, grip[3] - (e.offsetY - grip[1]) / scale];
    draw(); return;
  }
  const found = [...shown("predicted"), ...shown("truth")].find(b => within(b, e.offsetX, e.offsetY)) || null;
  if (found !== over) { over = found; draw(); }
};
canvas.ondblclick = () => { scale = 8; middle = [0, 0]; draw(); };
for (const name of ["colour", "truth", "predicted"]) document.getElementById(name).onchange = draw;
window.onresize = fit;
fit();
</script></body></html>
"""

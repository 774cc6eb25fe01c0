"""What `gdseg predict --format` writes for one image: overlay, png, labelme, yolo.

The COCO file, one for all images, is coco_json.py's. Each writer takes the image, what was found,
the folder of its format and a name without suffix.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gdseg.files import write_atomic, write_json
from gdseg.polygons import mask_polygons, one_ring
from gdseg.structures import Predictions
from gdseg.view.draw import Pixels, draw

Writer = Callable[[Pixels, Predictions, Path, str], None]


def write_overlay(image: Pixels, found: Predictions, folder: Path, name: str) -> None:
    """NAME.jpg: the masks over the image."""
    save_picture(draw(image, found), folder / f"{name}.jpg")


def save_picture(picture: Image.Image, path: Path) -> None:
    """Save in one step (see files.py); the suffix, .png or .jpg, chooses the format."""
    buffer = io.BytesIO()
    if path.suffix.lower() in (".jpg", ".jpeg"):
        picture.save(buffer, format="JPEG", quality=92, subsampling=0)
    else:
        picture.save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())


def write_png(image: Pixels, found: Predictions, folder: Path, name: str) -> None:
    """NAME.png: 16-bit ids, 0 background, the better-scored instance on top; NAME.json: what each id is."""
    ids = np.zeros(found.size, dtype=np.uint16)
    for i in reversed(range(len(found))):
        ids[found.mask(i).numpy()] = i + 1
    save_picture(Image.fromarray(ids), folder / f"{name}.png")
    rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes_xyxy_px.tolist(), strict=True)
    entries = [
        {"id": i, "label": label, "class": _class(found, label), "score": score, "box_xyxy": box}
        for i, (label, score, box) in enumerate(rows, 1)
    ]
    write_json(folder / f"{name}.json", entries)


def write_labelme(image: Pixels, found: Predictions, folder: Path, name: str) -> None:
    """NAME.json as labelme reads it; parts of an object share a group_id, holes join the outline."""
    shapes: list[dict[str, Any]] = []
    for i, label in enumerate(found.labels.tolist()):
        parts = mask_polygons(found.mask(i).numpy())
        for rings in parts:
            shapes.append(
                {
                    "label": _class(found, label),
                    "points": one_ring(rings).tolist(),
                    "group_id": i + 1 if len(parts) > 1 else None,
                    "shape_type": "polygon",
                    "flags": {},
                    "description": f"score {float(found.scores[i]):.3f}",
                }
            )
    height, width = found.size
    document = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": _from(folder, found.path or name),
    }
    write_json(
        folder / f"{name}.json", {**document, "imageData": None, "imageHeight": height, "imageWidth": width}
    )


def write_yolo(image: Pixels, found: Predictions, folder: Path, name: str) -> None:
    """NAME.txt: a line for each object, its label and a polygon in shares of width and height."""
    lines = []
    height, width = found.size
    for i, label in enumerate(found.labels.tolist()):
        rings = [ring for part in mask_polygons(found.mask(i).numpy()) for ring in part]
        if rings:
            points = one_ring(rings) / (width, height)
            lines.append(" ".join([str(label), *(f"{value:.6g}" for value in points.ravel())]))
    write_atomic(folder / f"{name}.txt", "".join(line + "\n" for line in lines))


WRITERS: dict[str, Writer] = {
    "overlay": write_overlay,
    "png": write_png,
    "labelme": write_labelme,
    "yolo": write_yolo,
}


def unique_name(path: Path, taken: set[str]) -> str:
    """The file's name without suffix, with a number if another image has it; it is added to `taken`."""
    name, number = path.stem, 1
    while name.lower() in taken:  # some file systems ignore case
        number += 1
        name = f"{path.stem}-{number}"
    taken.add(name.lower())
    return name


def _class(found: Predictions, label: int) -> str:
    return found.names[label] if label < len(found.names) else str(label)


def _from(folder: Path, image: Path | str) -> str:
    return Path(os.path.relpath(image, folder)).as_posix() if isinstance(image, Path) else image

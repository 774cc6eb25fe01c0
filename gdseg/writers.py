"""What `gdseg predict --format` writes for one image: overlay, png, labelme, yolo.

The COCO file, one for all images, is coco_json.py's. Each writer takes the image, what was found,
the folder of its format and a name without suffix. layouts/ writes data sets with the same rows and shapes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gdseg.files import write_atomic, write_json
from gdseg.polygons import Ring, mask_polygons, one_ring
from gdseg.structures import Predictions
from gdseg.view.draw import Pixels, draw

Writer = Callable[[Pixels, Predictions, Path, str], None]


def write_overlay(image: Pixels, found: Predictions, folder: Path, name: str) -> None:
    """NAME.jpg: the masks over the image."""
    save_picture(draw(image, found), folder / f"{name}.jpg")


def save_picture(picture: Image.Image, path: Path, text: PngInfo | None = None) -> None:
    """Save in one step (see files.py); the suffix, .png or .jpg, chooses the format. text: of a PNG."""
    buffer = io.BytesIO()
    if path.suffix.lower() in (".jpg", ".jpeg"):
        picture.save(buffer, format="JPEG", quality=92, subsampling=0)
    else:
        picture.save(buffer, format="PNG", pnginfo=text)
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
        rings = [one_ring(part) for part in mask_polygons(found.mask(i).numpy())]
        about = f"score {float(found.scores[i]):.3f}"
        shapes += labelme_polygons(_class(found, label), rings, i + 1, description=about)
    document = labelme_document(shapes, _from(folder, found.path or name), found.size)
    write_json(folder / f"{name}.json", document)


def labelme_polygons(name: str, rings: Sequence[Ring], group: int, **more: Any) -> list[dict[str, Any]]:
    """labelme's shapes of an object of the class `name`: its parts share the number `group`."""
    return [
        {
            "label": name,
            "points": ring.tolist(),
            "group_id": group if len(rings) > 1 else None,
            "shape_type": "polygon",
            "flags": {},
            **more,
        }
        for ring in rings
    ]


def labelme_document(shapes: list[dict[str, Any]], image: str, size: tuple[int, int]) -> dict[str, Any]:
    """labelme's json of one image, whose path is relative to the json's folder; size: height, width."""
    about: dict[str, Any] = {"version": "5.5.0", "flags": {}, "imagePath": image, "imageData": None}
    return {**about, "shapes": shapes, "imageHeight": size[0], "imageWidth": size[1]}


def write_yolo(image: Pixels, found: Predictions, folder: Path, name: str) -> None:
    """NAME.txt: a line for each object, its label and a polygon in shares of width and height."""
    lines = []
    for i, label in enumerate(found.labels.tolist()):
        rings = [ring for part in mask_polygons(found.mask(i).numpy()) for ring in part]
        if rings:
            lines.append(yolo_row(label, rings, found.size))
    write_atomic(folder / f"{name}.txt", "".join(line + "\n" for line in lines))


def yolo_row(label: int, rings: list[Ring], size: tuple[int, int]) -> str:
    """A row of YOLO-seg: the rings joined to one, in shares of the image; size: height, width."""
    points = one_ring(rings) / size[::-1]
    return " ".join([str(label), *(f"{value:.6g}" for value in points.ravel())])


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

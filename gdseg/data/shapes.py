"""The built-in data set: seven kinds of textured shapes, drawn by arithmetic and stored as COCO.

Objects hide one another (masks are what stays visible), rings have a hole, sizes range from 10 to
72 pixels, some images are empty and some hold a crowd of small shapes. The same seed gives the same
pixels. Called by data/dataset.py for `data.root: shapes` and by `gdseg data shapes`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gdseg.data.order import rng_for
from gdseg.data.rle import to_rle
from gdseg.data.shape_art import SHAPES, colour, grid, noise, texture
from gdseg.errors import MachineError, UsageError
from gdseg.files import replace_folder, write_json

VERSION = 3  # of the drawing code: raise it whenever a pixel changes
CLASSES = tuple(SHAPES)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class ShapesOptions:
    """What to make: images of each part, edge length in pixels, seed."""

    train: int = 600
    val: int = 150
    size: int = 128
    seed: int = 0


@dataclass
class Object:
    """One drawn object, or a crowd of them: what is visible of it, bool [h, w]."""

    label: int
    mask: NDArray[np.bool_]
    crowd: bool = False


def builtin_shapes() -> Path:
    """The folder of the default data set in the cache ($GDSEG_CACHE or ~/.cache/gdseg), made on first use."""
    options = ShapesOptions()
    return in_cache("shapes", VERSION, options, lambda folder: make_shapes(folder, options))


def in_cache(name: str, version: int, options: ShapesOptions, make: Callable[[Path], None]) -> Path:
    """The folder of a data set in the cache, made by `make` if it is not there. Raises MachineError."""
    cache = Path(os.environ.get("GDSEG_CACHE") or Path.home() / ".cache" / "gdseg")
    digest = hashlib.sha256(json.dumps([version, asdict(options)]).encode()).hexdigest()[:10]
    folder = cache / f"{name}-{digest}"
    if not folder.is_dir():
        try:
            replace_folder(folder, make)
        except MachineError as error:
            if not folder.is_dir():  # else another process was faster, with the same pixels
                hint = "free some space there or name another folder with GDSEG_CACHE"
                raise MachineError(error.what, folder, hint) from error
    return folder


def make_shapes(folder: Path, options: ShapesOptions) -> None:
    """Write train/, val/ and annotations/instances_{train,val}.json into `folder`.

    Raises UsageError for sizes below 48 pixels or no image, FileExistsError if a part is there already.
    """
    for part, count in check_options(options):
        rngs = (rng_for(options.seed, "shapes", part, number) for number in range(1, count + 1))
        write_part(folder, part, (draw_image(rng, options.size) for rng in rngs), asdict(options))


def check_options(options: ShapesOptions) -> list[tuple[str, int]]:
    """(part, number of images) of what to make. Raises UsageError for sizes below 48 pixels or no image."""
    if options.size < 48 or options.train < 1 or options.val < 1:
        raise UsageError(
            "the size must be at least 48 pixels, the numbers of images at least 1", "--size, --train, --val"
        )
    return [("train", options.train), ("val", options.val)]


def write_part(
    folder: Path, part: str, drawn: Iterable[tuple[NDArray[np.uint8], list[Object]]], info: dict[str, Any]
) -> None:
    """Write images and their objects as `part` of a data set in COCO format; info goes into the json."""
    (folder / part).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (pixels, objects) in enumerate(drawn, 1):
        name = f"{number:06d}.png"
        Image.fromarray(pixels).save(folder / part / name, compress_level=1)
        images.append({"id": number, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]})
        for thing in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **_annotation(thing)})
    content = {
        "info": {"description": f"gdseg shapes, version {VERSION}", **info},
        "licenses": [{"id": 1, "name": "CC0-1.0"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)],
    }
    write_json(folder / "annotations" / f"instances_{part}.json", content, indent=None)


def _annotation(thing: Object) -> dict[str, Any]:
    rows, columns = np.flatnonzero(thing.mask.any(1)), np.flatnonzero(thing.mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return {
        "category_id": thing.label + 1,
        "iscrowd": int(thing.crowd),
        "area": int(thing.mask.sum()),
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "segmentation": to_rle(thing.mask),
    }


def draw_image(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], list[Object]]:
    """One image uint8 [h, w, 3] (edges within an eighth of `size`) and its objects (visible masks)."""
    shape = int(size * rng.choice([0.875, 1, 1.125])), int(size * rng.choice([0.875, 1, 1.125]))
    pixels = _background(shape, rng)
    objects = draw_objects(pixels, rng, size)
    return photograph(pixels, rng), objects


def draw_objects(pixels: Array, rng: np.random.Generator, size: int) -> list[Object]:
    """Paint objects into float64 [h, w, 3], in place: none in one image of twenty, sometimes a crowd."""
    objects: list[Object] = []
    kind = rng.random()
    if kind >= 0.05:  # one image in twenty stays empty
        if kind < 0.09:
            objects.append(_draw_crowd(pixels, rng))
        for _ in range(int(rng.integers(1, 6))):
            _add_object(pixels, objects, rng, size)
    return objects


def _background(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """A texture with soft patches of other textures, none of which has the outline of a class."""
    pixels = texture(shape, rng, colour(rng), contrast=0.25)
    for _ in range(int(rng.integers(0, 3))):
        blob = np.clip((noise(shape, rng) - rng.uniform(0.45, 0.6)) * 6, 0, 1)[..., None]
        pixels += (texture(shape, rng, colour(rng), contrast=0.25) - pixels) * blob
    return pixels


def _add_object(pixels: Array, objects: list[Object], rng: np.random.Generator, size: int) -> None:
    """Paint one object in front of the others, unless no place leaves enough of them visible."""
    for _ in range(5):
        radius = size * float(np.exp(rng.uniform(np.log(0.11), np.log(0.32))))
        label = int(rng.integers(len(CLASSES)))
        centre = rng.uniform(0.08, 0.92) * pixels.shape[0], rng.uniform(0.08, 0.92) * pixels.shape[1]
        window, cover = _place(pixels, label, centre, radius, rng)
        mask = np.zeros(pixels.shape[:2], dtype=bool)
        mask[window] = cover >= 0.5
        hidden = [(thing.mask & mask).sum() > 0.45 * thing.mask.sum() for thing in objects]
        if mask.sum() < 25 or any(hidden):
            continue
        _paint(pixels[window], cover, rng)
        for thing in objects:
            thing.mask &= ~mask
        objects.append(Object(label, mask))
        return


def _place(
    pixels: Array, label: int, centre: tuple[float, float], radius: float, rng: np.random.Generator
) -> tuple[tuple[slice, slice], Array]:
    """A window of the image and how much of each of its pixels, 0..1, a shape turned at random covers."""
    reach = radius * 1.25 + 5
    (top, bottom), (left, right) = (
        (max(0, int(c - reach)), min(length, int(c + reach) + 1))
        for c, length in zip(centre, pixels.shape[:2], strict=True)
    )
    where = centre[0] - top, centre[1] - left
    x, y = grid((bottom - top, right - left), where, rng.uniform(0, 2 * np.pi), radius)
    distance = SHAPES[CLASSES[label]](x, y, rng.uniform(0.75, 1.0)) * radius
    return (slice(top, bottom), slice(left, right)), np.clip(0.5 - distance, 0, 1)


def _paint(pixels: Array, cover: Array, rng: np.random.Generator) -> None:
    """Fill in place with a texture unlike what is there, darker towards one side, with a soft shadow."""
    shape = cover.shape[0], cover.shape[1]
    around = pixels.mean((0, 1))
    fill = max((colour(rng) for _ in range(3)), key=lambda c: float(np.abs(c - around).sum()))
    down, right = (int(n) for n in rng.integers(0, 7, 2))
    shadow = np.pad(cover, 3)[down : down + shape[0], right : right + shape[1]] * rng.uniform(0.1, 0.45)
    pixels *= (1 - shadow * (1 - cover))[..., None]
    x, _ = grid(shape, (shape[0] / 2, shape[1] / 2), rng.uniform(0, 2 * np.pi), max(shape))
    surface = texture(shape, rng, fill, contrast=0.3) * (1 + rng.uniform(0, 0.7) * x)[..., None]
    pixels += (surface - pixels) * cover[..., None]


def _draw_crowd(pixels: Array, rng: np.random.Generator) -> Object:
    """Many small shapes of one class, too many to tell apart: one crowd annotation."""
    label = int(rng.integers(len(CLASSES)))
    height, width = pixels.shape[:2]
    middle = rng.uniform(0.25, 0.75, 2)
    everything = np.zeros((height, width), dtype=bool)
    for _ in range(30):
        y, x = np.clip(middle + rng.normal(0, 0.09, 2), 0.05, 0.95) * (height, width)
        window, cover = _place(pixels, label, (float(y), float(x)), 5.0, rng)
        _paint(pixels[window], cover, rng)
        everything[window] |= cover >= 0.5
    return Object(label, everything, crowd=True)


def photograph(pixels: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Uneven light and sensor noise."""
    light = 1 + rng.uniform(0, 0.35) * (noise((pixels.shape[0], pixels.shape[1]), rng)[..., None] - 0.5)
    grain = rng.normal(0, rng.uniform(2, 9), pixels.shape)
    image: NDArray[np.uint8] = np.clip(pixels * light + grain, 0, 255).round().astype(np.uint8)
    return image

"""The panoptic and semantic forms of the built-in data set: shapes before sky, ground, grass, water, paving.

Stuff has a look of its own (hue and pattern), things have an outline of their own and any look, so that both
have to be learned. Where two regions meet, pixels are of no class: nobody draws a border twice the same.
Written as COCO panoptic, or as folders of index maps with classes.json. Called by data/dataset.py and
`gdseg data shapes --task`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gdseg.data.label_maps import rgb_of
from gdseg.data.order import rng_for
from gdseg.data.shape_art import SHAPES, checkers, gradient, noise, spots, stripes
from gdseg.data.shapes import Object, ShapesOptions, check_options, draw_objects, in_cache, photograph
from gdseg.files import write_json

VERSION = 1  # of the drawing code: raise it whenever a pixel changes
Array = NDArray[np.float64]
Ids = NDArray[np.int32]
# name: first colour, second colour, pattern, colour in pictures
STUFF: dict[str, tuple[Array, Array, Callable[..., Array], tuple[int, int, int]]] = {
    "sky": (np.array([110.0, 160, 225]), np.array([205.0, 220, 240]), gradient, (70, 130, 180)),
    "ground": (np.array([140.0, 110, 75]), np.array([100.0, 75, 50]), noise, (128, 64, 0)),
    "grass": (np.array([70.0, 135, 60]), np.array([115.0, 175, 80]), stripes, (107, 142, 35)),
    "water": (np.array([45.0, 95, 130]), np.array([80.0, 140, 160]), spots, (0, 80, 160)),
    "paving": (np.array([150.0, 150, 150]), np.array([105.0, 105, 110]), checkers, (128, 128, 128)),
}
CLASSES = [*SHAPES, *STUFF]  # label = category id - 1: things first


def builtin_scenes(task: str) -> Path:
    """The folder of a form of the built-in data set in the cache, made on first use."""
    options = ShapesOptions()
    make = partial(make_scenes, options=options, task=task)
    return in_cache(f"shapes-{task}", VERSION, options, make)


def make_scenes(folder: Path, options: ShapesOptions, task: str) -> None:
    """Write the data set for task panoptic or semantic into `folder`.

    panoptic: {train,val}/, annotations/panoptic_{train,val}.json and PNGs; semantic: images/, annotations/
    and classes.json. Raises UsageError for bad sizes, FileExistsError if a part is there already.
    """
    images = "{}" if task == "panoptic" else "images/{}"
    for part, _ in check_options(options):
        (folder / images.format(part)).mkdir(parents=True)
        maps = folder / "annotations" / (f"panoptic_{part}" if task == "panoptic" else part)
        maps.mkdir(parents=True)
    if task == "semantic":
        write_json(folder / "classes.json", _categories(first=0), indent=None)
    for part, count in (("train", options.train), ("val", options.val)):
        entries = [
            _write_image(folder, images, part, number, options, task) for number in range(1, count + 1)
        ]
        if task == "panoptic":
            content = {
                "info": {"description": f"gdseg scenes, version {VERSION}", **vars(options)},
                "images": [image for image, _ in entries],
                "annotations": [annotation for _, annotation in entries],
                "categories": _categories(first=1),
            }
            write_json(folder / "annotations" / f"panoptic_{part}.json", content, indent=None)


def _categories(first: int) -> list[dict[str, Any]]:
    colours = [None] * len(SHAPES) + [colour for *_, colour in STUFF.values()]
    return [
        {"id": label + first, "name": name, "isthing": int(name in SHAPES)}
        | ({"color": list(colour)} if colour else {})
        for label, (name, colour) in enumerate(zip(CLASSES, colours, strict=True))
    ]


def _write_image(
    folder: Path, images: str, part: str, number: int, options: ShapesOptions, task: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw and save one image and its map; return its COCO entries (image, annotation)."""
    pixels, stuff, objects = draw_scene(rng_for(options.seed, "scenes", part, number), options.size)
    name, (height, width) = f"{number:06d}.png", stuff.shape
    Image.fromarray(pixels).save(folder / images.format(part) / name, compress_level=1)
    if task == "semantic":
        values = np.where(stuff < 0, 255, stuff)
        for thing in objects:
            values[thing.mask] = thing.label
        Image.fromarray(values.astype(np.uint8)).save(folder / "annotations" / part / name)
        return {}, {}
    ids = np.zeros(stuff.shape, dtype=np.int32)
    regions = objects + [Object(int(label), stuff == label) for label in np.unique(stuff[stuff >= 0])]
    segments = []
    for i, region in enumerate(regions, 1):
        ids[region.mask] = i
        facts = {"iscrowd": int(region.crowd), "area": int(region.mask.sum())}
        segments.append({"id": i, "category_id": region.label + 1, **facts})
    Image.fromarray(rgb_of(ids)).save(folder / "annotations" / f"panoptic_{part}" / name)
    image = {"id": number, "file_name": name, "height": height, "width": width}
    return image, {"image_id": number, "file_name": name, "segments_info": segments}


def draw_scene(rng: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], Ids, list[Object]]:
    """One image uint8 [h, w, 3], stuff labels int32 [h, w] (-1: void or a thing), and its things."""
    shape = int(size * rng.choice([0.875, 1, 1.125])), int(size * rng.choice([0.875, 1, 1.125]))
    stuff = _layout(shape, rng)
    pixels = np.zeros((*shape, 3))
    for label in np.unique(stuff):
        pixels[stuff == label] = _surface(CLASSES[label], shape, rng)[stuff == label]
    padded = np.pad(stuff, 1, mode="edge")
    beside = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    border = np.any([neighbour != stuff for neighbour in beside], axis=0)
    objects = draw_objects(pixels, rng, size)
    labels = np.where(border, -1, stuff)
    for thing in objects:
        labels[thing.mask] = -1
    return photograph(pixels, rng), labels, objects


def _layout(shape: tuple[int, int], rng: np.random.Generator) -> Ids:
    """Which stuff is where: often a sky above a wavy horizon, below it ground, with blobs of other stuff."""
    first = len(SHAPES)
    below = first + 1 + rng.permutation(len(STUFF) - 1)
    stuff = np.full(shape, below[0], dtype=np.int32)
    for label in below[1 : 1 + int(rng.integers(0, 3))]:
        stuff[noise(shape, rng) > rng.uniform(0.5, 0.62)] = label
    if rng.random() < 0.8:
        x = np.linspace(0, rng.uniform(1, 7), shape[1]) + rng.uniform(0, 6)
        horizon = shape[0] * (rng.uniform(0.2, 0.55) + rng.uniform(0, 0.08) * np.sin(x))
        stuff[np.arange(shape[0])[:, None] < horizon] = first
    return stuff


def _surface(name: str, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """The look of a class of stuff, float64 [h, w, 3]: its pattern between its colours, a little varied."""
    first, second, pattern, _ = STUFF[name]
    light, tint = rng.uniform(0.8, 1.15), rng.normal(0, 12, 3)
    first, second = np.clip(first * light + tint, 0, 255), np.clip(second * light + tint, 0, 255)
    return np.asarray(first + (second - first) * pattern(shape, rng)[..., None])

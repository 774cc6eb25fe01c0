"""`gdseg bench predict`: time and peak memory of one large image with many objects, whole and in tiles.

The image is laid out of pieces like the built-in data set's, drawn larger. Each way runs in a process of its
own, since a process's peak never falls. The network's weights are random: the figures depend on sizes,
queries and `postprocess.max_detections`. Seconds of the processor tell more than the clock on a busy machine.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gdseg.data.order import rng_for
from gdseg.data.shape_art import colour, texture
from gdseg.data.shapes import CLASSES, draw_objects, photograph
from gdseg.infer.image import infer_image
from gdseg.models.model import build_model
from gdseg.recipe import Recipe
from gdseg.train.counts import settle
from gdseg.train.engine import seed_step

HEIGHT, WIDTH, CELL, EACH = 3000, 4000, (300, 400), 3
TILE = 1000  # where the recipe names none


@dataclass(frozen=True)
class ImageRow:
    """One way: seconds by the clock and of the processor, peak memory before and after, objects found."""

    what: str
    seconds: float
    cpu_seconds: float
    bytes_before: int
    bytes_peak: int
    found: int


def bench_predict(recipe: Recipe, device: torch.device) -> list[ImageRow]:
    """The image seen whole, then in tiles of `inference.tile` (1000 if that is 0) pixels."""
    recipe = settle(recipe)
    tile = recipe.inference.tile or TILE
    context, rows = multiprocessing.get_context("spawn"), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.npy"
        np.save(path, large_image(HEIGHT, WIDTH))
        for what, side in (("whole", 0), (f"tiles of {tile}", tile)):
            own = replace(recipe, inference=replace(recipe.inference, tile=side))
            with context.Pool(1) as pool:
                rows.append(ImageRow(what, *pool.apply(_measure, (own, path, str(device)))))
    return rows


def large_image(height: int, width: int) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] with three objects in each 300 x 400 pixels; the same pixels each time."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    rng = rng_for(0, "large image")
    for top in range(0, height, CELL[0]):
        for left in range(0, width, CELL[1]):
            place = image[top : top + CELL[0], left : left + CELL[1]]
            place[:] = _piece(rng)[: place.shape[0], : place.shape[1]]
    return image


def _piece(rng: np.random.Generator) -> NDArray[np.uint8]:
    ground = texture(CELL, rng, colour(rng), contrast=0.25)
    while True:  # about one try in five
        pixels = ground.copy()
        if len(draw_objects(pixels, rng, CELL[0])) == EACH:
            return photograph(pixels, rng)


def _measure(recipe: Recipe, path: Path, device_name: str) -> tuple[float, float, int, int, int]:
    device, classes = torch.device(device_name), len(CLASSES)
    seed_step(recipe.seed, 0)
    model = build_model(recipe, classes, load_weights=False).to(device).eval()
    image = torch.from_numpy(np.load(path)).permute(2, 0, 1)
    image = image[torch.arange(recipe.backbone.in_channels) % 3]
    before, began, worked = peak_memory(), time.perf_counter(), time.process_time()
    found = infer_image(model, image, recipe, classes, device)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    return seconds, worked, before, peak_memory(), len(found.segments or found.labels)


def peak_memory() -> int:
    """The most this process has held, in bytes: allocated on a GPU in use, else resident; 0: unknown."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    try:  # getrusage would count the parent's memory at the time of the fork
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)

"""Masks, outlines and labels over a photograph, with Pillow and numpy.

Work and memory are those of one mask at a time, so a 12-megapixel photo with hundreds of instances
is no trouble. Small images are enlarged so that labels can be read. Called by predict, view/sheets.py
and `gdseg visualize`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask
from torch import Tensor

from gdseg.structures import Predictions
from gdseg.view.colours import class_colour, text_colour

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom

READABLE = 640  # pixels: a longest edge below this is enlarged


@dataclass(frozen=True)
class Look:
    """How a kind of mask is drawn: opacity inside; dashes and gaps of the outline in line widths."""

    fill: float
    dash: int = 1
    gap: int = 0


SOLID, DASHED, DOTTED = Look(0.45), Look(0.15, 4, 4), Look(0.0, 1, 2)


@dataclass(frozen=True)
class Style:
    """How to draw: `line` and `font` in pixels of the canvas, names and scores or not."""

    line: int
    font: int
    labels: bool = True

    @classmethod
    def of(cls, size: tuple[int, int], labels: bool = True) -> Style:
        """The style for a canvas of (width, height) pixels."""
        shortest = min(size)
        return cls(max(2, round(shortest / 400)), min(48, max(11, round(shortest / 38))), labels)


def displayable(image: Tensor | Pixels) -> Pixels:
    """uint8 [H, W, 3] of an image [C, H, W] (tensor) or [H, W, C] (array) of any channel count.

    Values other than 8-bit are stretched between their 0.5 % and 99.5 % quantiles.
    """
    array = image.permute(1, 2, 0).cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    array = np.repeat(array[..., :1], 3, axis=-1) if array.shape[-1] < 3 else array[..., :3]
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    step = max(1, array.shape[0] * array.shape[1] // 1_000_000)  # quantiles of a sample do
    low, high = np.nanquantile(array.reshape(-1, 3)[::step].astype(np.float32), [0.005, 0.995])
    stretched = (array.astype(np.float32) - low) * (255 / max(float(high - low), 1e-6))
    return np.asarray(np.nan_to_num(stretched).clip(0, 255), dtype=np.uint8)


def readable_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of the canvas for an image: its own, or a whole multiple for a small one."""
    factor = -(-READABLE // max(width, height))
    return (width * factor, height * factor) if factor > 1 else (width, height)


def draw(
    image: Pixels,
    found: Predictions,
    ignored: Predictions | None = None,
    *,
    dropped: Predictions | None = None,
    size: tuple[int, int] | None = None,
    labels: bool = True,
) -> Image.Image:
    """The image [H, W, 3] with filled, outlined and named masks; `ignored` ones dashed and faint.

    dropped: masks with a dotted outline alone, and no name.
    size: (width, height) of the result; None: `readable_size`. A score that is NaN is not written.
    """
    height, width = image.shape[:2]
    size = size or readable_size(width, height)
    photo = Image.fromarray(image)
    photo = photo if size == photo.size else photo.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    canvas, style = np.array(photo), Style.of(size, labels)
    if dropped is not None:
        list(_paint(canvas, dropped, style, DOTTED))
    named: list[tuple[Predictions, int, Box]] = []
    for predictions, look in ((ignored, DASHED), (found, SOLID)):
        if predictions is not None:
            named += _paint(canvas, predictions, style, look)
    picture = Image.fromarray(canvas)
    if labels:
        _write_labels(picture, named[::-1], style)
    return picture


def _paint(
    canvas: Pixels, predictions: Predictions, style: Style, look: Look
) -> Iterator[tuple[Predictions, int, Box]]:
    """Draw all masks, the largest first; yield the box right of and below the topmost pixel of each."""
    areas = [int(coco_mask.area(rle)) for rle in predictions.rles]
    for i in sorted(range(len(areas)), key=lambda i: -areas[i]):
        mask, (left, top) = _mask_on_canvas(predictions, i, (canvas.shape[1], canvas.shape[0]))
        if not mask.any():
            continue
        bottom, right = top + mask.shape[0], left + mask.shape[1]
        colour = np.array(class_colour(int(predictions.labels[i])), dtype=np.float32)
        region = canvas[top:bottom, left:right]
        region[mask] = (region[mask] * (1 - look.fill) + colour * look.fill).astype(np.uint8)
        edge = _edge(mask, style.line)
        if look.gap:
            diagonals = np.add.outer(np.arange(mask.shape[0]), np.arange(mask.shape[1]))
            edge &= diagonals // style.line % (look.dash + look.gap) < look.dash
        region[edge] = colour.astype(np.uint8)
        # the label goes to the mask's topmost pixel, which is surely its own
        yield predictions, i, (left + int(mask[0].argmax()), top, right, bottom)


def _mask_on_canvas(
    predictions: Predictions, i: int, size: tuple[int, int]
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """The bounding part of mask i at the canvas's (width, height), and its (left, top) there."""
    rle = predictions.rles[i]
    x, y, w, h = map(int, coco_mask.toBbox(rle))
    scale_x, scale_y = size[0] / rle["size"][1], size[1] / rle["size"][0]
    left, top = int(x * scale_x), int(y * scale_y)
    right = min(size[0], max(left + 1, round((x + w) * scale_x)))
    bottom = min(size[1], max(top + 1, round((y + h) * scale_y)))
    if not w or not h:
        return np.zeros((1, 1), dtype=bool), (0, 0)
    part = coco_mask.decode(rle)[y : y + h, x : x + w]
    if part.shape != (bottom - top, right - left):
        shape = (right - left, bottom - top)
        part = (
            np.asarray(Image.fromarray(part * np.uint8(255)).resize(shape, Image.Resampling.BILINEAR)) > 127
        )
    return np.asarray(part, dtype=bool), (left, top)


def _edge(mask: NDArray[np.bool_], line: int) -> NDArray[np.bool_]:
    """The mask's pixels with a pixel outside it at `line` pixels in one of eight directions."""
    padded, inner = np.pad(mask, line), mask.copy()
    diagonal = round(line * 0.7071)
    offsets = [(0, line), (line, 0), (diagonal, diagonal), (diagonal, -diagonal)]
    for y, x in [*offsets, *((-y, -x) for y, x in offsets)]:
        inner &= padded[line + y : line + y + mask.shape[0], line + x : line + x + mask.shape[1]]
    return mask & ~inner


def _write_labels(picture: Image.Image, named: list[tuple[Predictions, int, Box]], style: Style) -> None:
    """Names and scores, small objects first, wherever one fits without covering another."""
    pen, typeface, taken = ImageDraw.Draw(picture), font(style.font), list[Box]()
    crowded = len(named) > 20
    for predictions, i, box in named:
        text = label_text(predictions, i)
        width, height = round(typeface.getlength(text)) + style.font // 2, round(style.font * 1.3)
        if not text or (crowded and width * height > (box[2] - box[0]) * (box[3] - box[1])):
            continue
        place = _free_place(box, width, height, picture.size, taken)
        if place is None:
            continue
        taken.append(place)
        colour = class_colour(int(predictions.labels[i]))
        pen.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour)
        middle = (place[0] + style.font // 4, (place[1] + place[3]) // 2)
        pen.text(middle, text, fill=text_colour(colour), font=typeface, anchor="lm")


def label_text(predictions: Predictions, i: int) -> str:
    """ "name 0.87", or what of it is known: a class's region in a semantic map has no score."""
    label, score = int(predictions.labels[i]), float(predictions.scores[i])
    name = predictions.names[label] if 0 <= label < len(predictions.names) else ""
    return name if predictions.semantic is not None or score != score else f"{name} {score:.2f}".strip()


def _free_place(box: Box, width: int, height: int, size: tuple[int, int], taken: list[Box]) -> Box | None:
    left = max(0, min(box[0], size[0] - width))
    for top in (box[1] - height, box[1], box[3], box[3] - height, (box[1] + box[3] - height) // 2):
        place = (left, top, left + width, top + height)
        free = all(
            place[2] <= t[0] or t[2] <= place[0] or place[3] <= t[1] or t[3] <= place[1] for t in taken
        )
        if free and top >= 0 and top + height <= size[1]:
            return place
    return None


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which matplotlib brings along and which has most alphabets, at `size` pixels."""
    spec = find_spec("matplotlib")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    try:
        return ImageFont.truetype(str(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
    except OSError:
        return ImageFont.load_default(size)

"""Label maps: PNGs whose values say what each pixel is, read when a sample is made, and what they hold.

COCO panoptic (arXiv 1801.00868 and its API), Cityscapes instanceIds and labelIds, ADE20K, and folders of
index or colour maps are one thing here: values with a meaning (`structures.LabelMap`). Called by
data/augment.py for training, by eval/ for the truth, by inspect and visualize.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gdseg.data.rle import shorten, to_rle
from gdseg.errors import DataError
from gdseg.structures import BELOW, Code, Colour, LabelMap, Record

VOID, BACKGROUND = -1, -2  # a pixel that is to be ignored; one that is known to hold no object
SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # formats that keep every value
Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Segment:
    """One region of a label map. `id` is its value; label, thing or stuff, crowd as `structures.Code`."""

    id: int
    label: int
    is_thing: bool
    is_crowd: bool


@dataclass(frozen=True)
class Regions:
    """What a label map holds. place int32 [H, W]: index of a pixel's segment, or VOID, or BACKGROUND."""

    place: Ids
    segments: list[Segment]


def read_ids(path: Path) -> Ids:
    """int32 [H, W]: the value of the only channel, or red + 256 green + 65536 blue. Raises DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as file:
                if file.mode not in ("1", "L", "P", "RGB", "RGBA") and not file.mode.startswith("I"):
                    raise ValueError(f"its mode is {file.mode}, expected one channel or RGB")
                array = np.asarray(file.convert("RGB") if file.mode == "RGBA" else file).astype(np.int32)
    except Exception as error:  # a decoder fed with untrusted bytes may raise anything
        raise _unreadable(path, error) from error
    return array if array.ndim == 2 else np.asarray(array @ np.array([1, 256, 65536], dtype=np.int32))


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError("no such label map", path, "check the path")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"cannot read the label map: {reason}", path, "replace the file")


def map_kind(path: Path) -> tuple[str, list[Colour]]:
    """Pillow's mode of a label map, and the colours of its palette if it has one. Raises DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as file:
                flat = file.getpalette() or [] if file.mode == "P" else []
                return file.mode, [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3)]
    except Exception as error:  # see read_ids
        raise _unreadable(path, error) from error


def rgb_of(ids: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of ids [H, W] below 2**24, as COCO panoptic stores them."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def read_regions(record: Record, task: str) -> Regions:
    """The segments of a record with a label map that a task distinguishes, those without a pixel left out.

    instance: things. panoptic: things, and one segment of each class of stuff. semantic: one of each
    class, crowds included. Raises DataError for a map of another size than its image or with values that
    mean nothing.
    """
    label_map = record.label_map
    assert label_map is not None
    ids = _read_values(label_map)
    if None not in (record.height, record.width) and ids.shape != (record.height, record.width):
        what = f"the label map is {ids.shape[1]} x {ids.shape[0]} pixels, "
        raise DataError(
            what + f"its image {record.width} x {record.height}", label_map.path, "redraw it or remove both"
        )
    values, index = np.unique(ids, return_inverse=True)
    meanings = _meanings(record, values.tolist())
    void = label_map.void
    unknown = [v for v in values.tolist() if v not in meanings and _key(label_map, v) not in (void or ())]
    if unknown and void is not None:
        shown = sorted({value % BELOW for value in unknown})  # without what marks a second map
        raise DataError(
            f"{len(shown)} values of the label map mean nothing: {shorten(shown[:8])}",
            label_map.path,
            "declare their classes, or set data.ignore_label to the value that is no class",
        )
    segments: dict[tuple[int, int], tuple[int, Segment]] = {}
    nothing = BACKGROUND if task == "instance" else VOID
    places = {v: VOID if _key(label_map, v) in label_map.ignored else nothing for v in values.tolist()}
    for value, code in meanings.items():
        if code.is_thing or task != "instance":
            merged = task == "semantic" or not code.is_thing
            crowd = code.is_crowd and task != "semantic"
            segment = Segment(value, code.label, code.is_thing, crowd)
            key = (code.label, -1 - crowd if merged else value)
            places[value] = segments.setdefault(key, (len(segments), segment))[0]
    place = np.array(list(places.values()), dtype=np.int32)[index].reshape(ids.shape)
    return Regions(place, [segment for _, segment in segments.values()])


def _read_values(label_map: LabelMap) -> NDArray[np.integer]:
    """The values of a map, joined with those of the second map where there is one. Raises DataError."""
    ids = read_ids(label_map.path)
    second = label_map.below or label_map.classes
    if second is None:
        return ids
    under = read_ids(second)
    if under.shape != ids.shape:
        what = f"the label maps of one image differ in size: {ids.shape[::-1]} and {under.shape[::-1]}"
        raise DataError(what, second, "redraw one of them")
    if label_map.classes is not None:
        return ids.astype(np.int64) * BELOW + under
    values, index = np.unique(ids, return_inverse=True)
    means = np.array([_code(label_map, value) is not None for value in values.tolist()])
    return np.where(means[index].reshape(ids.shape), ids, under + np.int32(BELOW))


def _meanings(record: Record, values: Sequence[int]) -> dict[int, Code]:
    """What those of the values mean that mean something, in the order of their segments."""
    label_map = record.label_map
    assert label_map is not None
    if label_map.codes is not None:
        codes = {value: _code(label_map, value) for value in values}
        return {value: code for value, code in codes.items() if code is not None}
    there = set(values)
    return {
        a["id"]: Code(a["label"], a["isthing"], bool(a["iscrowd"]))
        for a in record.annotations or ()
        if a["id"] in there
    }


def _code(label_map: LabelMap, value: int) -> Code | None:
    return (label_map.codes or {}).get(_key(label_map, value))


def _key(label_map: LabelMap, value: int) -> int:
    return label_map.class_of(value) if label_map.class_of else value


def with_masks(record: Record, task: str) -> Record:
    """The record with run-length masks in place of its label map; one without a map as it is.

    Raises DataError as `read_regions`.
    """
    if record.label_map is None:
        return record
    regions = read_regions(record, task)
    annotations = tuple(
        {
            "id": segment.id,
            "label": segment.label,
            "iscrowd": int(segment.is_crowd),
            "segmentation": to_rle(regions.place == i),
        }
        for i, segment in enumerate(regions.segments)
    )
    height, width = regions.place.shape
    return replace(record, height=height, width=width, annotations=annotations, label_map=None)

"""Pascal VOC's segmentation (Everingham et al., IJCV 2015; devkit of 2012) and what is laid out like it.

SegmentationClass/ says each pixel's class and SegmentationObject/ its object, ImageSets/Segmentation/ lists
the images of a part; 255, the rim of objects, is neither. CVAT's and Datumaro's "segmentation mask" name and
colour the classes in labelmap.txt, labelme2voc names them in class_names.txt. Called by dataset.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from gdseg.data.label_maps import map_kind
from gdseg.data.map_folders import list_maps, pair
from gdseg.data.part import WORDS, Fault, Format, Part, Source
from gdseg.data.rle import shorten
from gdseg.data.semantic_folder import declared_classes
from gdseg.errors import DataError
from gdseg.recipe import Data
from gdseg.structures import BELOW, ClassInfo, Code, Colour, LabelMap

_NAMES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
)
NAMES = (_NAMES + "person pottedplant sheep sofa train tvmonitor").split()
BACKGROUND_NAMES = ("background", "_background_", "__background__")
RIM: Colour = (224, 224, 192)  # colour 255 of the palette
CLASSES, OBJECTS, LISTS = "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"
_NOTHING = -1  # stands for the rim


def palette_colour(index: int) -> Colour:
    """A colour of VOC's palette: bit 3 i + c of the index is bit 7 - i of channel c (devkit, VOCcolormap)."""
    red, green, blue = (sum((index >> (3 * i + c) & 1) << (7 - i) for i in range(3)) for c in range(3))
    return red, green, blue


def find(root: Path, part: str, data: Data, task: str) -> Source | None:
    """The folder with SegmentationClass/ (for instances SegmentationObject/ too) and its list of a part.

    Without any list all images are for training. Raises DataError where there are several such folders.
    """
    tops = [root, *sorted(root.glob("VOC2*")), *sorted(root.glob("VOCdevkit/VOC2*"))]
    tops = [top for top in tops if (top / CLASSES).is_dir()]
    if not tops or (task == "instance" and not (tops[0] / OBJECTS).is_dir()):
        return None
    if len(tops) > 1:
        names = ", ".join(top.name for top in tops)
        raise DataError(f"there are several data sets: {names}", root, f"choose one: --data {tops[0]}")
    given = data.train if part == "train" else data.val
    lists = [root / given] if given else [tops[0] / LISTS / f"{word}.txt" for word in WORDS[part]]
    listed = next((path for path in lists if path.is_file()), None)
    if listed is None and (given or part == "val" or next((tops[0] / LISTS).glob("*.txt"), None)):
        return None
    images = data.train_images if part == "train" else data.val_images
    folder = root / images if images else tops[0] / "JPEGImages"
    return partial(_read, root, tops[0], folder, listed, data, task)


def _read(root: Path, top: Path, images: Path, listed: Path | None, data: Data, task: str) -> Part:
    if not images.is_dir():
        what = f"there is no folder {images.name} of images"
        raise DataError(what, top, "put them there, or name theirs: data.train_images, data.val_images")
    maps = list_maps(top / CLASSES)
    if not maps:
        raise DataError("the folder holds no label map", top / CLASSES, "unpack the data set again")
    classes = _classes(root, top, data)
    values, rim = _values(classes, maps[0], data.ignore_label)
    kept = [info for info in classes if task != "instance" or info.is_thing]
    codes = {values[info]: Code(i, info.is_thing) for i, info in enumerate(kept) if info in values}
    background = {value for info, value in values.items() if not info.is_thing}
    label_map = LabelMap(top / CLASSES, codes, frozenset({rim}))
    if task == "instance":
        label_map = _object_map(top, codes, background, rim)
    names = _names(listed, maps)
    records, faults = pair(images, label_map.path, label_map, lambda name: name if name in names else None)
    there = {record.image_id for record in records} | {fault.image_id for fault in faults}
    missing = [name for name in names if name not in there]
    faults += [Fault("missing image file", f"none of that name in {images}", name) for name in missing]
    return Part(listed or top / CLASSES, records, kept, faults)


def _object_map(top: Path, codes: dict[int, Code], background: set[int], rim: int) -> LabelMap:
    """The two maps as one: objects of a class, and regions of a class that are no object (crowds).

    The rim and objects of no class are to be ignored, where there is neither is background.
    """
    groups = {BELOW + value: Code(code.label, True, is_crowd=True) for value, code in codes.items()}
    ignored = frozenset({_NOTHING, *background})
    void = ignored | {BELOW + value for value in background}
    class_of = partial(_class_of, rim)
    return LabelMap(top / OBJECTS, codes | groups, void, class_of, None, top / CLASSES, ignored)


def _class_of(rim: int, value: int) -> int:
    """What stands for a pixel's object and class: the class, + BELOW where it has no object, or _NOTHING."""
    thing, number = divmod(value, BELOW)
    if rim in (thing, number):
        return _NOTHING
    return number if thing else BELOW + number


def _names(listed: Path | None, maps: Sequence[Path]) -> dict[str, None]:
    """The images of a part's list, in its order. Raises DataError if it is not readable."""
    if listed is None:
        return dict.fromkeys(path.stem for path in maps)
    try:
        lines = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError("cannot read the list of images", listed, "a text file, one name a line") from error
    stems = {path.stem for path in maps}  # a name may have blanks, or a number behind it
    names = dict.fromkeys(line if line in stems else line.split()[0] for line in lines if line)
    if not names:
        raise DataError("the list names no image", listed, "one name a line, as 2007_000032")
    return names


def _classes(root: Path, top: Path, data: Data) -> list[ClassInfo]:
    """The classes by value, whose colours are known only from a labelmap.txt. Raises DataError."""
    if data.classes is None and (top / "labelmap.txt").is_file():
        return _label_map(top / "labelmap.txt")
    files = [root / data.classes] if data.classes else [top / "class_names.txt", top / "classes.txt"]
    path = next((path for path in files if data.classes or path.is_file()), None)
    table = [ClassInfo(i, name) for i, name in enumerate(NAMES)] if path is None else declared_classes(path)
    return [ClassInfo(c.id, c.name, c.name not in BACKGROUND_NAMES) for c in table]


def _label_map(path: Path) -> list[ClassInfo]:
    hint = "a class a line, as cat:64,0,0::"
    table: list[ClassInfo] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        for line in lines:
            if line.strip() and not line.startswith("#"):
                name, colour, *_ = line.split(":")
                red, green, blue = (int(channel) % 256 for channel in colour.split(","))
                is_thing = name not in BACKGROUND_NAMES
                table.append(ClassInfo(len(table), name, is_thing, (red, green, blue)))
    except (OSError, ValueError) as error:
        raise DataError(f"the classes are not readable: {shorten(str(error))}", path, hint) from error
    if not table:
        raise DataError("there is no class", path, hint)
    return table


def _values(table: list[ClassInfo], first: Path, ignore_label: int) -> tuple[dict[ClassInfo, int], int]:
    """Which value of the class maps means each class, and which the rim.

    Maps of three channels hold the classes' colours, and those with a palette too where labelmap.txt says
    which; else values are numbers of classes.
    """
    mode, palette = map_kind(first)
    colours = {info: info.colour or palette_colour(info.id % 256) for info in table}
    if mode in ("RGB", "RGBA"):
        return {info: _value(colour) for info, colour in colours.items()}, _value(RIM)
    if palette and table[0].colour:
        numbers = {colour: i for i, colour in reversed(list(enumerate(palette)))}
        found = {info: numbers[colour] for info, colour in colours.items() if colour in numbers}
        return found, numbers.get(RIM, ignore_label)
    return {info: info.id for info in table}, ignore_label


def _value(colour: Colour) -> int:
    return colour[0] + 256 * colour[1] + 65536 * colour[2]


FORMAT = Format(
    "voc",
    find,
    ("instance", "semantic"),
    "SegmentationClass, SegmentationObject and ImageSets/Segmentation/{part}.txt (Pascal VOC)",
)

"""Names, category ids and kinds of the classes that official weights were trained on. Called by `convert`.

Facts of COCO, Cityscapes, ADE20K, in the order of the official outputs. Files of official weights do not hold
them: they follow from the data set that the configuration names. Where nothing is known, classes are numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gdseg.data import ade20k, cityscapes
from gdseg.structures import ClassInfo

COCO = """person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant
stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella
handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard
surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli
carrot hot_dog pizza donut cake chair couch potted_plant bed dining_table toilet tv laptop mouse remote
keyboard cell_phone microwave oven toaster sink refrigerator book clock vase scissors teddy_bear hair_drier
toothbrush"""
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_STUFF = """92 banner 93 blanket 95 bridge 100 cardboard 107 counter 109 curtain 112 door-stuff 118
floor-wood 119 flower 122 fruit 125 gravel 128 house 130 light 133 mirror-stuff 138 net 141 pillow 144
platform 145 playingfield 147 railroad 148 river 149 road 151 roof 154 sand 155 sea 156 shelf 159 snow 161
stairs 166 tent 168 towel 171 wall-brick 175 wall-stone 176 wall-tile 177 wall-wood 178 water-other 180
window-blind 181 window-other 184 tree-merged 185 fence-merged 186 ceiling-merged 187 sky-other-merged
188 cabinet-merged 189 table-merged 190 floor-other-merged 191 pavement-merged 192 mountain-merged 193
grass-merged 194 dirt-merged 195 paper-merged 196 food-other-merged 197 building-other-merged 198
rock-merged 199 wall-other-merged 200 rug-merged"""


def classes_of(dataset: str, count: int) -> list[ClassInfo] | None:
    """The classes of the official data set `dataset` (as coco_2017_val), label by label.

    None where the data set is not known, or has not `count` classes.
    """
    table = next((read(dataset) for name, read in _TABLES.items() if dataset.startswith(name)), [])
    return table if len(table) == count else None


def numbered(count: int) -> list[ClassInfo]:
    """Stand-ins for classes of which nothing is known but how many there are; all are things."""
    return [ClassInfo(label, f"class {label}") for label in range(count)]


def named(table: list[ClassInfo], names: list[str]) -> list[ClassInfo]:
    """The same classes under other names."""
    return [replace(info, name=name) for info, name in zip(table, names, strict=True)]


def _coco(dataset: str) -> list[ClassInfo]:
    numbers = [i for i in range(1, 91) if i not in _COCO_GAPS]
    names = (name.replace("_", " ") for name in COCO.split())
    things = [ClassInfo(number, name) for number, name in zip(numbers, names, strict=True)]
    words = COCO_STUFF.split()
    stuff = zip(words[::2], words[1::2], strict=True)
    return things + [ClassInfo(int(n), name, False) for n, name in stuff if "panoptic" in dataset]


def _cityscapes(dataset: str) -> list[ClassInfo]:
    return [info for info in cityscapes.CLASSES if info.is_thing or "instance" not in dataset]


def _ade20k(dataset: str) -> list[ClassInfo]:
    """Semantic labels count from 1, as in the maps; the jsons made for the other two tasks count from 0."""
    if "sem_seg" in dataset:
        return list(ade20k.CLASSES)
    table = [replace(info, id=info.id - 1) for info in ade20k.CLASSES]
    return [info for info in table if info.is_thing or "instance" not in dataset]


_TABLES: dict[str, Callable[[str], list[ClassInfo]]] = {
    "coco": _coco,
    "cityscapes": _cityscapes,
    "ade20k": _ade20k,
}

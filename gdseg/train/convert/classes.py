"""Class names and category ids of the data sets that official weights were trained on. Called by `convert`.

Facts of COCO and Cityscapes, in the order of the official outputs. Where nothing is known, classes are
numbered.
"""

from __future__ import annotations

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
window-blind 181 window-other 184 tree-merged 185 fence-merged 186 ceiling-other-merged 187 sky-other-merged
188 cabinet-merged 189 table-merged 190 floor-other-merged 191 pavement-merged 192 mountain-merged 193
grass-merged 194 dirt-merged 195 paper-merged 196 food-other-merged 197 building-other-merged 198
rock-merged 199 wall-other-merged 200 rug-merged"""
CITYSCAPES = """7 road 8 sidewalk 11 building 12 wall 13 fence 17 pole 19 traffic_light 20 traffic_sign
21 vegetation 22 terrain 23 sky 24 person 25 rider 26 car 27 truck 28 bus 31 train 32 motorcycle 33 bicycle"""


def classes_of(dataset: str, count: int) -> tuple[list[str], list[int]]:
    """Names and category ids of the official data set `dataset`; numbers where it is not known.

    dataset: the official name, as coco_2017_val; only its classes count, and only if there are `count` of
    them.
    """
    pairs: list[tuple[int, str]] = []
    if dataset.startswith("coco"):
        pairs = _coco() + (_numbered(COCO_STUFF) if count > 80 else [])
    elif dataset.startswith("cityscapes"):
        pairs = _numbered(CITYSCAPES)[-count:] if count in (8, 19) else []
    if len(pairs) != count:
        return [f"class {i}" for i in range(count)], list(range(count))
    return [name for _, name in pairs], [number for number, _ in pairs]


def is_thing(dataset: str, category_id: int) -> bool:
    """Whether a class of the official data set is a thing; all are where nothing is known."""
    if dataset.startswith("coco"):
        return category_id <= 90
    return category_id >= 24 or not dataset.startswith("cityscapes")


def _coco() -> list[tuple[int, str]]:
    numbers = [i for i in range(1, 91) if i not in _COCO_GAPS]
    return list(zip(numbers, (name.replace("_", " ") for name in COCO.split()), strict=True))


def _numbered(text: str) -> list[tuple[int, str]]:
    words = text.split()
    return [(int(n), name.replace("_", " ")) for n, name in zip(words[::2], words[1::2], strict=True)]

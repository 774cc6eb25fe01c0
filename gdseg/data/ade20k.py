"""ADE20K as SceneParse150 has it (arXiv 1608.05442): images/, annotations/ of values 1..150, 0 of no class.

The download is read as it is. Its objectInfo150.txt names the classes; where it is missing, the table here
does (its first name of each class; sceneparsing kit, BSD-3). Called by dataset.py.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from gdseg.data.map_folders import find_folders, pair
from gdseg.data.part import Format, Part, Source
from gdseg.recipe import Data
from gdseg.structures import ClassInfo, Code, LabelMap

_NAMES = (
    (
        "wall; building; sky; floor; tree; ceiling; road; bed; windowpane; grass; cabinet; sidewalk; person; "
        "earth; door; table; mountain; plant; curtain; chair; car; water; painting; sofa; shelf; house; sea; "
        "mirror; rug; field; armchair; seat; fence; desk; rock; wardrobe; lamp; bathtub; railing; cushion; "
        "base; box; column; signboard; chest of drawers; counter; sand; sink; skyscraper; fireplace; "
        "refrigerator; grandstand; path; stairs; runway; case; pool table; pillow; screen door; stairway; "
        "river; bridge; bookcase; blind; coffee table; toilet; flower; book; hill; bench; countertop; stove; "
        "palm; kitchen island; computer; swivel chair; boat; bar; arcade machine; hovel; bus; towel; light; "
        "truck; tower; chandelier; awning; streetlight; booth; television; airplane; dirt track; apparel; "
        "pole; land; bannister; escalator; ottoman; bottle; buffet; poster; stage; van; ship; fountain; "
        "conveyer belt; canopy; washer; plaything; swimming pool; stool; barrel; basket; waterfall; tent; "
        "bag; minibike; cradle; oven; ball; food; step; tank; trade name; microwave; pot; animal; bicycle; "
        "lake; dishwasher; screen; blanket; sculpture; hood; sconce; vase; traffic light; tray; ashcan; fan; "
        "pier; crt screen; plate; monitor; bulletin board; shower; radiator; glass; clock; flag "
    )
    .strip()
    .split("; ")
)


def find(root: Path, part: str, data: Data, task: str) -> Source | None:
    """images/training and annotations/training (validation), whose files are named ADE_..; else None."""
    folders = find_folders(root, part, data)
    if folders is None or not next(folders[0].glob("ADE_*"), None):
        return None
    return partial(_read, root, *folders)


def _read(root: Path, images: Path, maps: Path) -> Part:
    table = [ClassInfo(value, name, False) for value, name in enumerate(_names(root), 1)]
    codes = {info.id: Code(label, False) for label, info in enumerate(table)}
    records, faults = pair(images, maps, LabelMap(maps, codes, frozenset({0})))
    return Part(maps, records, table, faults)


def _names(root: Path) -> list[str]:
    try:
        lines = (root / "objectInfo150.txt").read_text(encoding="utf-8").splitlines()[1:]
    except (OSError, ValueError):
        return _NAMES
    names = [line.split("\t")[-1].split(",")[0].strip() for line in lines]
    return names if len(names) == len(_NAMES) else _NAMES


FORMAT = Format(
    "ade20k", find, ("semantic",), "images/{part}ing and annotations/{part}ing (ADE20K SceneParse150)"
)

"""Files of the formats with random damage: they load, or are refused with a reason; nothing else is raised."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gdseg.data.dataset import open_dataset
from gdseg.data.label_maps import with_masks
from gdseg.data.rle import to_rle
from gdseg.errors import GdsegError
from gdseg.layouts.convert import convert
from gdseg.recipe import Data

WORDS = [
    b"NaN",
    b"1e999",
    b"-",
    b"[",
    b"{",
    b"null",
    b"\0",
    b'"',
    b"9" * 400,
    b"../",
    b"\xff",
    b"true",
    b" ",
    b":",
]


def damaged(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 20])):
        place = rng.randrange(len(changed) + 1)
        changed[place : place + rng.choice([0, 1, 1, 30])] = rng.choice([*WORDS, bytes([rng.randrange(256)])])
    return bytes(changed)


@pytest.mark.parametrize("to", ["labelme", "cvat", "label_studio", "yolo", "voc", "lvis", "cityscapes"])
def test_damage_is_refused_or_harmless(tmp_path: Path, to: str) -> None:
    root, ring = tmp_path / "source", np.zeros((20, 30), dtype=np.uint8)
    ring[3:15, 4:18], ring[6:9, 7:9] = 1, 0
    (root / "train").mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(root / "train" / "a.png")
    things = [{"image_id": 1, "category_id": 1, "iscrowd": c, "segmentation": to_rle(ring)} for c in (0, 1)]
    things.append({**things[0], "segmentation": [[1, 1, 9, 1, 9, 9]]})
    content = {"images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}]}
    content |= {
        "annotations": [{"id": i, **a} for i, a in enumerate(things)],
        "categories": [{"id": 1, "name": "car"}],
    }
    (root / "instances_train.json").write_text(json.dumps(content))
    made = tmp_path / "made"
    if to == "cityscapes":
        for folder in ("leftImg8bit/train/x", "gtFine/train/x"):
            (made / folder).mkdir(parents=True)
        (root / "train" / "a.png").rename(made / "leftImg8bit/train/x/a_leftImg8bit.png")
        Image.fromarray(ring.astype(np.uint16) * 26000).save(made / "gtFine/train/x/a_gtFine_instanceIds.png")
    else:
        convert(Data(root=str(root), val="none"), made, to)
    files = [
        p
        for p in made.rglob("*")
        if p.is_file() and p.suffix != ".jpg" and not p.stem.endswith("leftImg8bit")
    ]
    files = [path for path in files if path.parts[-2] not in ("train", "JPEGImages") or path.suffix != ".png"]
    rng, outcomes = random.Random(0), set()
    for _ in range(80):
        path = rng.choice(files)
        content_before = path.read_bytes()
        path.write_bytes(damaged(content_before, rng))
        try:
            for record in open_dataset(Data(root=str(made), val="none")).train:
                with_masks(record, "instance")
            outcomes.add("loaded")
        except GdsegError:
            outcomes.add("refused")
        path.write_bytes(content_before)
    assert outcomes == {"loaded", "refused"}

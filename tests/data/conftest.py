"""A tiny COCO data set that each test changes as it needs."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SQUARE = [[4.0, 4.0, 20.0, 4.0, 20.0, 16.0, 4.0, 16.0]]
CONTENT: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": 32, "width": 48},
        {"id": 3, "file_name": "b.png", "height": 32, "width": 48},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 90,
            "iscrowd": 0,
            "bbox": [4, 4, 16, 12],
            "segmentation": SQUARE,
        }
    ],
    "categories": [{"id": 90, "name": "dog"}, {"id": 4, "name": "cat"}],
}
MakeCoco = Callable[..., Path]


@pytest.fixture
def content() -> dict[str, Any]:
    """The content of a faultless json; each test has its own."""
    return copy.deepcopy(CONTENT)


@pytest.fixture
def make_coco(tmp_path: Path) -> MakeCoco:
    """make_coco(content) writes root/annotations/instances_{train,val}.json and the images; returns root."""

    def make(content: Any, root: Path = tmp_path / "set", parts: tuple[str, ...] = ("train", "val")) -> Path:
        rng = np.random.default_rng(0)
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        for part in parts:
            text = content if isinstance(content, str) else json.dumps(content)
            (root / "annotations" / f"instances_{part}.json").write_text(text)
            (root / part).mkdir(exist_ok=True)
            for image in CONTENT["images"]:
                pixels = rng.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / image["file_name"])
        return root

    return make

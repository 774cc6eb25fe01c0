"""The built-in data set: COCO on disk, the same pixels each time, honest masks, no half-made cache."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from gdseg.data import shapes
from gdseg.data.coco import load_coco
from gdseg.data.images import read_image
from gdseg.data.order import rng_for
from gdseg.data.rle import annotation_mask
from gdseg.data.shape_art import SHAPES, grid
from gdseg.data.shapes import ShapesOptions, builtin_shapes, draw_image, make_shapes
from gdseg.errors import MachineError, UsageError

SMALL = ShapesOptions(train=30, val=5, size=96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "shapes"
    make_shapes(folder, SMALL)
    return folder


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def test_it_is_faultless_coco(folder: Path) -> None:
    file = load_coco(folder / "annotations" / "instances_train.json", folder / "train")
    assert file.faults == []
    assert len(file.records) == 30
    assert len(file.classes) == 7
    coco = COCO(str(folder / "annotations" / "instances_train.json"))
    for annotation in coco.dataset["annotations"]:
        mask = coco.annToMask(annotation).astype(bool)
        assert annotation["area"] == mask.sum()
        x, y, w, h = annotation["bbox"]
        assert mask[y : y + h, x : x + w].sum() == mask.sum()
        assert mask[y].any()
        assert mask[:, x + w - 1].any()
    for record in file.records:
        assert read_image(record.path).shape == (3, record.height, record.width)


def test_masks_of_an_image_do_not_overlap(folder: Path) -> None:
    for record in load_coco(folder / "annotations" / "instances_train.json", folder / "train").records:
        assert record.height is not None
        assert record.width is not None
        masks = [annotation_mask(a, record.height, record.width) for a in record.annotations or ()]
        assert np.sum([np.zeros((record.height, record.width)), *masks], axis=0).max() <= 1
        assert all(mask.sum() >= 10 for mask in masks)


def test_the_same_seed_gives_the_same_pixels(folder: Path, tmp_path: Path) -> None:
    make_shapes(tmp_path / "again", SMALL)
    assert digest(tmp_path / "again") == digest(folder)
    make_shapes(tmp_path / "other", ShapesOptions(train=30, val=5, size=96, seed=1))
    assert digest(tmp_path / "other") != digest(folder)


def test_there_are_empty_images_crowds_and_many_sizes() -> None:
    images = [draw_image(rng_for(0, "test", i), 64)[1] for i in range(300)]
    things = [thing for objects in images for thing in objects]
    areas = [thing.mask.sum() for thing in things if not thing.crowd]
    assert 5 < sum(not objects for objects in images) < 30
    assert 3 < sum(thing.crowd for thing in things) < 30
    assert min(np.bincount([thing.label for thing in things])) > 80
    assert np.percentile(areas, 95) > 6 * np.percentile(areas, 5)  # radii from 0.11 to 0.32 of the image


@pytest.mark.parametrize("name", SHAPES)
def test_each_outline_is_one_bounded_shape(name: str) -> None:
    """The distance is negative inside only, and no pixel lies further out than the window that is drawn."""
    for ratio in (0.55, 1.0):
        x, y = grid((200, 200), (100, 100), 0.3, 60)
        inside = SHAPES[name](x, y, ratio) < 0
        assert 800 < inside.sum() < 12000
        assert np.hypot(x, y)[inside].max() <= 1.25
    assert bool(SHAPES[name](*grid((1, 1), (0.5, 0.5), 0, 60), 1.0)[0, 0] < 0) == (
        name not in ("ring", "crescent")
    )


def test_the_cache_is_made_once_and_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shapes, "ShapesOptions", lambda: SMALL)
    with monkeypatch.context() as broken:
        broken.setattr(shapes, "write_json", lambda *_, **__: (_ for _ in ()).throw(MachineError("full")))
        with pytest.raises(MachineError):
            builtin_shapes()
    assert list((tmp_path / "cache").iterdir()) == []
    folder = builtin_shapes()
    assert folder.parent == tmp_path / "cache"
    before = (folder / "train" / "000001.png").stat().st_mtime_ns
    assert builtin_shapes() == folder
    assert (folder / "train" / "000001.png").stat().st_mtime_ns == before
    (tmp_path / "file").touch()
    monkeypatch.setenv("GDSEG_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(MachineError, match=r"(?s)cannot write.*GDSEG_CACHE"):
        builtin_shapes()


def test_bad_options(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 48"):
        make_shapes(tmp_path, ShapesOptions(size=8))

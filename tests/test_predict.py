"""The Python API: every kind of image gives the same answer; a list in is a list out."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gdseg.errors import CheckpointError, DataError, MachineError
from gdseg.predict import Predictor, as_tensor, class_regions, iter_images, load_model
from gdseg.structures import Predictions


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint: Path) -> Predictor:
    return load_model(tiny_checkpoint, device="cpu")


@pytest.fixture
def pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def same(a: Predictions, b: Predictions) -> bool:
    return torch.equal(a.scores, b.scores) and a.rles == b.rles and torch.equal(a.labels, b.labels)


def test_all_kinds_of_image_agree(predictor: Predictor, pixels: Any, tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    found = predictor.predict(path, conf=0.0)
    assert len(found) > 0
    assert found.size == (50, 70)
    assert found.names == ["cat", "dog"] == predictor.classes
    assert found.path == path
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for image in (str(path), Image.fromarray(pixels), pixels, tensor):
        assert same(predictor.predict(image, conf=0.0), found)


def test_a_list_gives_a_list_and_conf_filters(predictor: Predictor, pixels: Any) -> None:
    [a, b] = predictor.predict([pixels, pixels[:, ::-1]], conf=0.0)
    assert not same(a, b)
    threshold = float(a.scores[len(a) // 2])
    few = predictor.predict(pixels, conf=threshold)
    assert 0 < len(few) < len(a)
    assert float(few.scores.min()) >= threshold
    assert predictor.predict([], conf=0.0) == []


def test_masks_and_boxes_fit(predictor: Predictor, pixels: Any) -> None:
    found = predictor.predict(pixels, conf=0.0)
    assert found.masks.shape == (len(found), 50, 70)
    assert found.masks.dtype == torch.bool
    for i, box in enumerate(found.boxes_xyxy_px.tolist()):
        ys, xs = found.mask(i).nonzero().T
        assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    results = found.to_coco(7, [5, 9])
    assert {r["category_id"] for r in results} <= {5, 9}
    assert results[0]["bbox"][2] == found.boxes_xyxy_px[0, 2] - found.boxes_xyxy_px[0, 0]
    assert found.filter(2.0).masks.shape == (0, 50, 70)


def test_a_mask_that_is_not_there_is_counted_out(predictor: Predictor, pixels: Any) -> None:
    found = predictor.predict(pixels, conf=0.0)
    assert torch.equal(found.mask(-1), found.mask(len(found) - 1))
    for i in (len(found), 999, -len(found) - 1):
        with pytest.raises(IndexError, match=f"there are {len(found)} objects, asked for {i}$"):
            found.mask(i)


def test_supervision_is_asked_for_by_name(predictor: Predictor, pixels: Any) -> None:
    if importlib.util.find_spec("supervision"):
        assert len(predictor.predict(pixels, conf=0.0).to_supervision()) > 0
    else:  # it is no dependency
        with pytest.raises(MachineError, match="supervision"):
            predictor.predict(pixels).to_supervision()


def test_a_semantic_map_becomes_one_region_a_class() -> None:
    semantic = torch.zeros(4, 6, dtype=torch.int64)
    semantic[1:3, 2:4] = 1
    nothing = Predictions(
        "a", (4, 6), torch.zeros(0), torch.zeros(0), torch.zeros(0, 4), [], semantic=semantic
    )
    found = class_regions(nothing)
    assert found.labels.tolist() == [0, 1]
    assert torch.equal(found.mask(1), semantic == 1)
    assert found.boxes_xyxy_px[1].tolist() == [2, 1, 4, 3]


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        (np.zeros((4, 5), np.uint8), (3, 4, 5)),
        (np.zeros((4, 5, 1), np.uint8), (3, 4, 5)),
        (np.zeros((4, 5, 4), np.uint8), (3, 4, 5)),
        (np.zeros((4, 5), np.uint16), (3, 4, 5)),
        (torch.zeros(3, 4, 5), (3, 4, 5)),
        (Image.new("P", (5, 4)), (3, 4, 5)),
        (Image.new("RGBA", (5, 4)), (3, 4, 5)),
        (Image.new("I;16", (5, 4)), (3, 4, 5)),
        (Image.new("1", (5, 4)), (3, 4, 5)),
    ],
)
def test_as_tensor(image: Any, shape: tuple[int, ...]) -> None:
    tensor = as_tensor(image, 3)
    assert tensor.shape == shape
    assert tensor.dtype in (torch.uint8, torch.float32)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 5, 2)), np.zeros(4), np.zeros((0, 4, 3)), np.array(["a"]), np.zeros((2, 3, 4, 3)), None],
)
def test_what_is_no_image(image: Any) -> None:
    with pytest.raises(DataError):
        as_tensor(image, 3)


def test_sixteen_bit_values_are_kept() -> None:
    assert as_tensor(np.full((2, 2), 40_000, np.uint16), 1).unique().tolist() == [40_000]


def test_iter_images(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "none").mkdir()
    for name in ("b.png", "a.jpg", "sub/c.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    names = [str(p.relative_to(tmp_path)) for p in iter_images([tmp_path, tmp_path / "b.png"])]
    assert names == ["a.jpg", "b.png", "sub/c.PNG"]
    assert [p.name for p in iter_images([str(tmp_path / "*.jpg"), str(tmp_path / "**" / "c.*")])] == [
        "a.jpg",
        "c.PNG",
    ]
    (tmp_path / "dead.png").symlink_to("nothing.png")
    assert list(iter_images([tmp_path / "dead.png"])) == [tmp_path / "dead.png"]  # said when it is read
    for wrong, words in (
        ("none", "holds no image"),
        ("*.tif", "nothing matches"),
        ("gone.png", "no such file"),
    ):
        with pytest.raises(DataError, match=words):
            list(iter_images([tmp_path / "a.jpg", tmp_path / wrong]))


def test_load_model_says_what_is_wrong(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no run yet"):
        load_model()
    with pytest.raises(CheckpointError):
        load_model(tmp_path / "gone.safetensors")
    with pytest.raises(MachineError):
        load_model(tiny_checkpoint, device="cuda:99")

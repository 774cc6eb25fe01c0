"""Whole, tiled and augmented inference with a network that knows the truth gives the truth of the whole image."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from known_scene import CLASSES, THINGS, Knowing, Scene, found_objects
from PIL import Image

from gdseg.data.rle import to_rle
from gdseg.eval.run import evaluate
from gdseg.infer.image import infer_image, view_of
from gdseg.recipe import Augment, Recipe
from gdseg.structures import Predictions, Record

CPU = torch.device("cpu")
TILINGS = [(64, "auto"), (64, 32), (64, 1), (100, 20), (150, 7), (40, 20)]


def infer(scene: Scene, recipe: Recipe, task: str, network: Knowing | None = None, **how: Any) -> Predictions:
    recipe = dataclasses.replace(recipe, task=task, inference=dataclasses.replace(recipe.inference, **how))
    return infer_image(cast(Any, network or Knowing(scene.labels)), scene.image, recipe, CLASSES, CPU, THINGS)


@pytest.mark.parametrize(("tile", "overlap"), [(0, "auto"), *TILINGS])
def test_instances_come_out_whole(scene: Scene, recipe: Recipe, tile: int, overlap: int | str) -> None:
    found = infer(scene, recipe, "instance", tile=tile, overlap=overlap).filter(0.5)
    things = [(label, mask) for label, mask in found_objects(found) if THINGS[label]]
    assert len(things) == len(scene.labels)
    assert set(things) == scene.objects
    assert found.size == scene.ids.shape
    for i, box in enumerate(found.boxes_xyxy_px.tolist()):
        ys, xs = found.mask(i).nonzero().T
        assert box == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize(("tile", "overlap"), [(0, "auto"), *TILINGS])
def test_a_panoptic_map_comes_out_whole(scene: Scene, recipe: Recipe, tile: int, overlap: int | str) -> None:
    found = infer(scene, recipe, "panoptic", tile=tile, overlap=overlap)
    assert found.panoptic is not None
    assert found.segments is not None
    by_id = {s["id"]: s for s in found.segments}
    assert sorted(by_id) == sorted(found.panoptic.unique().tolist()), "every pixel has a segment"
    masks = {(s["label"], (found.panoptic == i).numpy().tobytes()) for i, s in by_id.items() if s["isthing"]}
    assert masks == scene.objects
    labels = torch.tensor([0, *(by_id[i]["label"] for i in sorted(by_id))])[found.panoptic.long()]
    assert torch.equal(labels, scene.semantic)
    assert [s["isthing"] for s in found.segments] == [THINGS[s["label"]] for s in found.segments]


@pytest.mark.parametrize(("tile", "overlap"), [(0, "auto"), *TILINGS])
@pytest.mark.parametrize("resize", ["scores", "masks"])
def test_a_semantic_map_comes_out_whole(
    scene: Scene, recipe: Recipe, tile: int, overlap: int | str, resize: str
) -> None:
    recipe.postprocess.semantic_resize = resize
    found = infer(scene, recipe, "semantic", tile=tile, overlap=overlap)
    assert found.semantic is not None
    assert torch.equal(found.semantic, scene.semantic)


@pytest.mark.parametrize("tile", [0, 64])
def test_flipped_and_scaled_views_agree_with_the_truth(scene: Scene, recipe: Recipe, tile: int) -> None:
    how: dict[str, Any] = {"tile": tile, "flip": True}
    found = infer(scene, recipe, "instance", **how).filter(0.5)
    things = {(label, mask) for label, mask in found_objects(found) if THINGS[label]}
    assert things == scene.objects
    semantic = infer(scene, recipe, "semantic", **how).semantic
    assert torch.equal(cast(Any, semantic), scene.semantic)
    network = Knowing(scene.labels)
    infer(scene, recipe, "semantic", network, tile=0, scales=[0.5, 1.0, 1.5], flip=True)
    assert network.seen == [(100, 85)] * 2 + [(200, 170)] * 2 + [(300, 255)] * 2


def test_an_image_that_fits_in_a_tile_is_seen_as_without_tiles(scene: Scene, recipe: Recipe) -> None:
    network = Knowing(scene.labels)
    recipe.augment.test_shortest = 340
    infer(scene, recipe, "instance", network, tile=200)
    infer(scene, recipe, "instance", network)
    assert network.seen == [(400, 340)] * 2


def test_tiles_have_the_scale_of_a_whole_image_of_their_size(scene: Scene, recipe: Recipe) -> None:
    network = Knowing(scene.labels)
    recipe.augment.test_shortest = 75
    infer(scene, recipe, "instance", network, tile=150, overlap=50)
    assert network.seen == [(75, 75)] * 4
    narrow = torch.zeros(3, 60, 400, dtype=torch.uint8)  # a tile cut short has the scale of a full one
    assert view_of(narrow[..., :150], recipe.augment, side=150).sizes == [(30, 75)]
    assert view_of(narrow, Augment(test_shortest=120, test_longest=1000), 0.5).sizes == [(60, 400)]


@pytest.mark.parametrize("flip", [False, True])
def test_evaluation_goes_the_same_way(scene: Scene, recipe: Recipe, flip: bool, tmp_path: Path) -> None:
    image = scene.image.permute(1, 2, 0).numpy()
    Image.fromarray(image).save(tmp_path / "a.png")
    annotations = tuple(
        {"label": label, "segmentation": to_rle(scene.ids == i), "iscrowd": 0}
        for i, label in enumerate(scene.labels, 1)
    )
    record = Record("a", tmp_path / "a.png", *scene.ids.shape, annotations)
    names = [str(i) for i in range(CLASSES)]
    dataset: Any = SimpleNamespace(
        val=[record], classes=names, category_ids=list(range(CLASSES)), things=THINGS, table=[]
    )
    recipe.data.workers, recipe.inference.tile, recipe.inference.flip = 0, 64, flip
    metrics = evaluate(cast(Any, Knowing(scene.labels)), dataset, recipe, CPU).metrics
    assert metrics["mask_ap"] == pytest.approx(1.0)
    assert np.isclose(metrics["box_ap"], 1.0)

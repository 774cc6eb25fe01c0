"""Label maps of whole images: hand-made masks at full size, the file read back, trained on and gone on with."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from gdseg.cli.app import app
from gdseg.data.dataset import open_dataset
from gdseg.data.label_maps import read_ids, read_regions
from gdseg.errors import InterruptedRun, RecipeError, UsageError
from gdseg.models.checkpoint import Network, save_network
from gdseg.models.model import build_model
from gdseg.recipe import Data, Recipe
from gdseg.recipe_yaml import load_recipe
from gdseg.structures import Batch, ClassInfo, LayerOutput, Outputs
from gdseg.train import label_folder
from gdseg.train.label_entry import Labeller
from gdseg.train.label_map import label_map, with_segments
from gdseg.train.pseudo_maps import Grid, regions

TABLE = [ClassInfo(3, "cat"), ClassInfo(4, "sky", False), ClassInfo(7, "road", False)]


def predictor(task: str, *queries: tuple[int, float, slice]) -> Any:
    """A network that sees, in an image of 16 x 32 pixels, (label, score, columns of its 4 x 8 cells)."""
    logits = torch.full((1, len(queries), 3), -9.0)
    masks = torch.full((1, len(queries), 4, 8), -9.0)
    for q, (label, score, columns) in enumerate(queries):
        logits[0, q, label] = torch.logit(torch.tensor(score))
        masks[0, q, :, columns] = 9.0
    batch = Batch(["x"], torch.zeros(1, 3, 16, 32), [(16, 32)], [(16, 32)], [None])
    recipe = Recipe(task=task)
    recipe.distill.class_threshold, recipe.distill.region_threshold, recipe.distill.min_area = 0.6, 0.5, 2.0
    network = SimpleNamespace(model=None, recipe=recipe, things=[True, False, False], table=TABLE)
    outputs = Outputs([LayerOutput("final", logits, masks)])
    return SimpleNamespace(
        network=network, classes=["cat", "sky", "road"], outputs=lambda *_: (batch, outputs)
    )


def test_segments_at_full_size_by_hand() -> None:
    """A sure cat, sky beside it, a road nobody is sure of; a cell is 4 pixels wide."""
    sees = predictor("panoptic", (1, 0.7, slice(0, 5)), (0, 0.9, slice(0, 3)), (2, 0.4, slice(5, 8)))
    found, best = label_map(sees, torch.zeros(3, 16, 32), sees.network.recipe.distill)
    assert best == pytest.approx(0.9)
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.7], abs=0.01)
    made = with_segments(found, [0, 1], TABLE)
    assert made.panoptic is not None
    assert made.semantic is not None
    assert made.panoptic[7].tolist() == [1] * 12 + [2] * 8 + [0] * 12
    assert made.semantic[7].tolist() == [0] * 12 + [1] * 8 + [-1] * 12
    left = with_segments(found, [1], TABLE)
    assert left.panoptic is not None
    assert left.panoptic[7].tolist() == [0] * 12 + [1] * 8 + [0] * 12


def test_the_smallest_area_is_that_of_training() -> None:
    """A column of 4 cells, 4 x 16 pixels: cells are what min_area counts."""
    for least, kept in ((3.5, [1]), (4.5, [])):
        sees = predictor("semantic", (1, 0.9, slice(0, 1)))
        sees.network.recipe.distill.min_area = least
        found, _ = label_map(sees, torch.zeros(3, 16, 32), sees.network.recipe.distill)
        assert found.labels.tolist() == kept


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_a_few_masks_at_a_time_make_no_difference(task: str) -> None:
    torch.manual_seed(0)
    logits, masks, recipe = torch.randn(9, 3) * 2, torch.randn(9, 6, 8) * 4, Recipe(task=task)
    recipe.distill.class_threshold, recipe.distill.region_threshold, recipe.distill.min_area = 0.4, 0.3, 2.0
    recipe.distill.ignore_threshold, recipe.distill.pixel_margin = 0.2, 0.1
    whole = regions(logits, masks, recipe, [True, True, False], False)
    parts = regions(logits, masks, recipe, [True, True, False], False, grid=Grid(at_once=2))
    assert len(whole.labels) > 1
    for name, value in vars(whole).items():
        assert torch.equal(value, getattr(parts, name)), name


@pytest.fixture
def gdseg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def make(task: str, settings: list[str]) -> list[str]:
    """photos/ of four images in two folders, and a network that has seen none; the words of the command."""
    table = [ClassInfo(0, "star"), ClassInfo(1, "sky", False), ClassInfo(40, "road", False)]
    torch.manual_seed(0)
    recipe = load_recipe(f"shapes_{task}", settings)
    save_network(
        Network(build_model(recipe, 3), recipe, [c.name for c in table], [c.id for c in table], table=table),
        Path("net.safetensors"),
    )
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Path(f"photos/{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(f"photos/{i % 2}/{i}.jpg")
    low = ["distill.region_threshold=0.002", "distill.min_area=0"]
    low += ["--conf", "0.002"] if task == "panoptic" else []
    return ["pseudo-label", "net.safetensors", "photos", *low, "--jobs", "1"]


def files(folder: str) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
    return found | {name: Path(f"{folder}.{name}").read_bytes() for name in ("json", "png")}


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_maps_are_labels_again(
    gdseg: Callable[..., Result],
    tiny_settings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    task: str,
) -> None:
    words = make(task, tiny_settings)
    made = gdseg(*words)
    assert made.exit_code == 0, made.exception
    whole = files("labels")
    document = json.loads(whole["json"])
    place = {"train": "labels.json", "train_images": "photos"}
    if task == "semantic":
        place |= {"train": "labels", "classes": "labels/classes.json"}
    data = Data(root=".", val="none", **place)
    records = open_dataset(data, ("train",), task=task).train
    assert sorted(record.path.name for record in records) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    listed = document["annotations" if task == "panoptic" else "maps"]
    assert sum(len(entry["segments_info"]) for entry in listed) >= 4
    for entry, record in zip(listed, records, strict=True):
        held = read_regions(record, task)
        areas = sorted(int((held.place == i).sum()) for i in range(len(held.segments)))
        assert areas == sorted(segment["area"] for segment in entry["segments_info"])
    keys = [f"data.{name}={value}" for name, value in place.items()]
    trained = gdseg("pretrain", "-r", f"shapes_{task}", "--data", ".", "data.val=none", *keys, *tiny_settings,
                    "--out", "R", "-q")  # fmt: skip
    assert trained.exit_code == 0, trained.exception

    _interrupted(gdseg, monkeypatch, words)
    assert gdseg(*words, "--out", "again.json").exit_code == 0
    again = files("again")
    assert again == whole

    truth = "again.json" if task == "panoptic" else "again"
    result = gdseg(*words, "--overwrite", "--truth", truth, "--json")
    assert result.exit_code == 0, result.exception
    facts = json.loads(result.stdout)["truth"]
    assert (facts["judged"], facts["precision"], facts["recall"]) == (4, 1.0, 1.0)
    assert files("labels") == whole


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _interrupted(gdseg: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """Begin again.json and stop at the third image, then when the maps are in place and the json is not."""
    entry, folder = Labeller.entry, os.getcwd()

    def stop(self: Labeller, n: int, path: Path, *, shown: bool) -> dict[str, Any]:
        if n == 2:
            raise KeyboardInterrupt
        return entry(self, n, path, shown=shown)

    monkeypatch.setattr(Labeller, "entry", stop)
    assert isinstance(gdseg(*words, "--out", "again.json").exception, InterruptedRun)
    assert not Path("again").exists()
    monkeypatch.undo()
    os.chdir(folder)
    monkeypatch.setattr(label_folder, "write_document", interrupt)
    assert gdseg(*words, "--out", "again.json").exit_code != 0
    assert Path("again").exists()
    assert not Path("again.json").exists()
    monkeypatch.undo()
    os.chdir(folder)


def test_folders_and_names_that_are_refused(gdseg: Callable[..., Result], tiny_settings: list[str]) -> None:
    words = make("semantic", tiny_settings)
    Path("labels").mkdir()
    Path("labels/mine.txt").write_text("x")
    for more in ([], ["--overwrite"]):
        assert "a folder that is there already" in str(gdseg(*words, *more).exception)
    assert Path("labels/mine.txt").exists()
    assert "--out maps.json" in str(gdseg(*words, "--out", "maps").exception)
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save("photos/0/0.png")
    error = gdseg(*words, "--out", "x.json").exception
    assert isinstance(error, UsageError)
    assert "two images of one name" in error.what


def test_objects_that_the_keep_rule_leaves_out_are_of_no_class(
    gdseg: Callable[..., Result], tiny_settings: list[str]
) -> None:
    words = make("semantic", tiny_settings)
    assert gdseg(*words).exit_code == 0
    values = {int(v) for path in Path("labels").rglob("*.png") for v in np.unique(read_ids(path))}
    gone = min(values - {255})
    names = {0: "star", 1: "sky", 40: "road"}
    Path("keep.yaml").write_text(f"leave_out: [{names[gone]}]")
    assert gdseg(*words, "--out", "less.json", "--keep", "keep.yaml").exit_code == 0
    for path in Path("labels").rglob("*.png"):
        ids = read_ids(path)
        ids[ids == gone] = 255
        other = read_ids("less" / path.relative_to("labels"))
        assert np.array_equal(ids, other)


def test_thresholds_of_objects_are_refused_for_regions(
    gdseg: Callable[..., Result], tiny_settings: list[str]
) -> None:
    words = make("semantic", tiny_settings)
    for more in (["--conf", "0.5"], ["distill.mask_threshold=0.5"]):
        error = gdseg(*words, *more).exception
        assert isinstance(error, UsageError)
        assert "distill.region_threshold" in str(error.hint)
    for key in ("class_threshold: 0.5", "classes: {sky: {class_threshold: 0.5}}"):
        Path("keep.yaml").write_text(key)
        error = gdseg(*words, "--keep", "keep.yaml").exception
        assert isinstance(error, RecipeError)
        assert "class_threshold: of objects" in error.what
    none = gdseg(*words, "distill.region_threshold=1")
    assert "which is not enough: lower distill.region_threshold" in " ".join(none.stderr.split())

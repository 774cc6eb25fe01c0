"""`auto` numbers: what they are worked out from, that runs write them down, and what is warned of."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gdseg.errors import RecipeError
from gdseg.models.model import build_model
from gdseg.recipe import Recipe, settled
from gdseg.recipe_yaml import dump_recipe, load_recipe, parse_recipe
from gdseg.structures import Record
from gdseg.train.counts import object_counts, settle, with_room
from gdseg.train.distill import distill
from gdseg.train.pretrain import pretrain

AUTO = ["decoder.queries=auto", "decoder.denoising_queries=auto", "postprocess.max_detections=auto"]


def record(objects: int, crowds: int = 0) -> Record:
    annotations = [{"iscrowd": 0, "label": 0}] * objects + [{"iscrowd": 1, "label": 0}] * crowds
    return Record(objects, Path("a.png"), annotations=tuple(annotations))


def numbers(recipe: Recipe) -> list[int | str]:
    return [recipe.decoder.queries, recipe.decoder.denoising_queries, recipe.postprocess.max_detections]


def test_crowds_are_not_counted():
    records = [record(3, crowds=2), record(0), record(6)]
    assert object_counts(records, "instance") == [3, 0, 6]


@pytest.mark.parametrize(
    ("counts", "number"),
    [
        ([], 100),
        ([0, 5], 100),
        ([66], 100),  # 99
        ([67], 110),  # 100.5
        ([300] * 3, 450),
        ([10] * 199 + [5000], 100),  # one image in two hundred is left out
        ([10] * 90 + [200] * 10, 300),
    ],
)
def test_99_percent_with_room_in_tens(counts, number):
    assert with_room(counts) == number


def test_auto_is_settled_and_numbers_stand(caplog):
    recipe = load_recipe("shapes_maskdino", AUTO)
    assert numbers(recipe) == ["auto"] * 3
    with caplog.at_level(logging.INFO, "gdseg"):
        assert numbers(settle(recipe, [80])) == [120, 120, 120]
    assert len(caplog.messages) == 1
    assert "decoder.queries 120" in caplog.messages[0]
    assert "1 labelled image with up to 80 objects" in caplog.messages[0]
    assert numbers(recipe) == ["auto"] * 3, "the given recipe is left alone"
    mixed = load_recipe("shapes_maskdino", ["decoder.queries=90", *AUTO[1:]])
    assert numbers(settle(mixed, [80])) == [90, 120, 120]


def test_a_student_of_the_teacher_takes_its_numbers():
    teacher = load_recipe("shapes_maskdino")
    found = settle(load_recipe("shapes_mask2former", AUTO), [80], teacher)
    assert numbers(found) == numbers(teacher)


def test_too_few_are_warned_of(caplog):
    recipe = load_recipe("shapes_maskdino")
    settle(recipe, [41])
    assert [m for m in caplog.messages if "decoder.queries (40) is less than the 41 objects" in m]
    assert not [m for m in caplog.messages if "max_detections" in m]
    caplog.clear()
    settle(recipe, [40])
    assert caplog.messages == []
    caplog.clear()
    few = ["decoder.queries=40", "postprocess.max_detections=40"]
    settle(load_recipe("shapes_maskdino", [*few, "inference.tile=64"]), [41])
    assert [m.split()[1] for m in caplog.messages] == ["decoder.queries"]  # tiles are joined
    caplog.clear()
    settle(load_recipe("shapes_maskdino", [*few, "augment.mode=rescale", "augment.test_shortest=0"]), [41])
    assert [m.split()[1] for m in caplog.messages] == ["postprocess.max_detections"]  # crops hold a part


def test_the_word_is_strict_and_survives_writing():
    recipe = load_recipe("shapes_maskdino", AUTO)
    assert parse_recipe(dump_recipe(recipe), "dump") == recipe
    for wrong in (
        "decoder.queries=Auto",
        "decoder.queries=1.5",
        "decoder.layers=auto",
        "decoder.queries=[auto]",
    ):
        with pytest.raises(RecipeError, match="must be"):
            load_recipe("shapes_maskdino", [wrong])


def test_an_unsettled_recipe_builds_nothing():
    recipe = load_recipe("shapes_maskdino", AUTO)
    with torch.device("meta"), pytest.raises(RecipeError, match="still auto"):
        build_model(recipe, 2, load_weights=False)
    with pytest.raises(RecipeError):
        settled("auto")


def test_runs_write_numbers_and_go_on_with_them(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, tiny_data: Path
) -> None:
    recipe = tiny_recipe("maskdino", *AUTO, "train.steps=1", "distill.steps=1", "data.val=none")
    cpu = torch.device("cpu")
    pretrain(recipe, tmp_path / "t", cpu, quiet=True)
    written = load_recipe(str(tmp_path / "t" / "recipe.yaml"))
    assert numbers(written) == [100, 100, 100]
    longer = replace(written, train=replace(written.train, steps=2))
    pretrain(longer, tmp_path / "t", cpu, resume=True, quiet=True)
    teacher = tmp_path / "t" / "checkpoints" / "last-teacher.safetensors"
    distill(recipe, tmp_path / "s", teacher, cpu, quiet=True)
    assert numbers(load_recipe(str(tmp_path / "s" / "recipe.yaml"))) == [100, 100, 100]
    assert json.loads((tmp_path / "s" / "run.json").read_text())["verb"] == "distill"

"""One to five labelled images: both verbs train on them, and the start says what to try."""

import json
import shutil

import pytest
import torch

from gdseg.data.scenes import make_scenes
from gdseg.data.shapes import ShapesOptions
from gdseg.errors import DataError
from gdseg.recipe_yaml import load_recipe
from gdseg.runs import find_checkpoint
from gdseg.train import counts, start
from gdseg.train.distill import distill
from gdseg.train.plan import describe
from gdseg.train.pretrain import pretrain
from gdseg.words import counted

CPU = torch.device("cpu")


@pytest.mark.parametrize(("labelled", "followed"), [(1, False), (1, True), (5, False)])
def test_a_teacher_and_a_student_of_a_few_images(tiny_recipe, tmp_path, capfd, labelled, followed):
    """followed: with what the advice names, pasting among copies of the only image included."""
    changes = [
        f"data.ratio={labelled / 12:.4f}",
        "train.steps=2",
        "distill.steps=5",
        "distill.burn_in_steps=1",
    ]
    changes += ["augment.copy_paste=0", "augment.weak_colour=false"]
    if followed:
        changes += ["augment.copy_paste=1", "augment.weak_colour=true"]
    recipe = tiny_recipe("maskdino", *changes)
    scores = pretrain(recipe, tmp_path / "teacher", CPU)
    assert 0 <= scores["teacher"]["mask_ap"] <= 1
    said = capfd.readouterr().err
    assert counted(labelled, "labelled image") in said
    assert "data.ratio=1" in said
    assert ("augment.copy_paste=0.5" in said) is not followed
    distill(recipe, tmp_path / "run", find_checkpoint(tmp_path / "teacher", "teacher"), CPU)
    said = " ".join(capfd.readouterr().err.split())
    assert ("augment.copy_paste=0.5 augment.weak_colour=true" in said) is not followed
    assert (tmp_path / "run/checkpoints/last-student.safetensors").is_file()
    plan = describe(recipe, tmp_path / "other", CPU, "pretrain")
    assert "data.ratio=1" in plan
    assert ("augment.copy_paste=0.5" in plan) is not followed


def test_advice_is_for_few_images_only_and_its_keys_are_the_recipes():
    recipe = load_recipe("shapes_maskdino", ["augment.copy_paste=0", "augment.weak_colour=false"])
    assert start.advice(20, recipe, "distill") == ""
    text = start.advice(19, recipe, "distill")
    words = [word.rstrip(",") for word in text.split() if "=" in word]
    assert len(words) == 2
    changed = load_recipe("shapes_maskdino", words)
    assert start.advice(19, changed, "distill") == ""


def test_label_maps_are_counted_once(tiny_settings, tmp_path, monkeypatch):
    make_scenes(tmp_path / "data", ShapesOptions(train=6, val=1, size=64), "panoptic")
    changes = [f"data.root={tmp_path / 'data'}", "data.val=none", "data.ratio=1", "train.steps=1"]
    recipe = load_recipe("shapes_panoptic", [*tiny_settings, *changes, "distill.steps=1"])
    read, original = [], counts.read_regions
    monkeypatch.setattr(counts, "read_regions", lambda *given: read.append(given) or original(*given))
    pretrain(recipe, tmp_path / "teacher", CPU, quiet=True)
    assert len(read) == 6
    read.clear()
    distill(recipe, tmp_path / "run", find_checkpoint(tmp_path / "teacher", "teacher"), CPU, quiet=True)
    assert len(read) == 6


def test_neither_verb_starts_without_an_object(tiny_recipe, tiny_data, tmp_path):
    """Crowds are none; one object in one image is enough."""
    shutil.copytree(tiny_data, tmp_path / "data")
    recipe = tiny_recipe("maskdino", f"data.root={tmp_path / 'data'}", "train.steps=1", "distill.steps=1")
    pretrain(recipe, tmp_path / "teacher", CPU, quiet=True)
    teacher = find_checkpoint(tmp_path / "teacher", "teacher")
    path = tmp_path / "data/annotations/instances_train.json"
    content = json.loads(path.read_text())
    first = content["annotations"][0]
    path.write_text(json.dumps({**content, "annotations": [{**first, "iscrowd": 1}]}))
    for run in (
        lambda: pretrain(recipe, tmp_path / "a", CPU),
        lambda: distill(recipe, tmp_path / "b", teacher, CPU),
    ):
        with pytest.raises(DataError, match="no object in any labelled image"):
            run()
    path.write_text(json.dumps({**content, "annotations": [first]}))
    whole = tiny_recipe("maskdino", f"data.root={tmp_path / 'data'}", "data.ratio=1")
    assert sum(start.open_data(whole).some_counts()) == 1


def test_a_stream_of_labelled_images_alone_is_told(tiny_recipe, tmp_path, capfd):
    for ratio, told in ((1.0, True), (0.5, False)):
        recipe = tiny_recipe("maskdino", f"data.ratio={ratio}", "train.steps=1", "distill.steps=1")
        pretrain(recipe, tmp_path / f"teacher{ratio}", CPU)
        distill(recipe, tmp_path / f"{ratio}", find_checkpoint(tmp_path / f"teacher{ratio}", "teacher"), CPU)
        assert ("all unlabelled images are the labelled ones" in capfd.readouterr().err) is told

"""The table of official recipes: its form, and every recipe against the official options, models and results.

Records of the official configurations are found in GDSEG_ZOO, as in tests/golden/test_zoo.py; a clone alone
compares with `published.json`.
"""

import gzip
import json
import os
from collections import Counter
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gdseg.cli.app import app
from gdseg.errors import RecipeError
from gdseg.models.model import build_model
from gdseg.recipe import Recipe
from gdseg.recipe_table import official_recipes, table_file
from gdseg.recipe_yaml import key_paths, load_recipe, recipe_text
from gdseg.train.convert.identify import published
from gdseg.train.convert.make_published import _FOLDERS
from gdseg.train.convert.options import recipe_keys

_SHARED = Path(os.environ.get("GDSEG_SHARED", Path(__file__).parents[2] / "shared"))
ZOO = Path(os.environ.get("GDSEG_ZOO") or _SHARED / "reference" / "zoo")
NEEDS_ZOO = pytest.mark.skipif(not ZOO.is_dir(), reason=f"no records in {ZOO} (GDSEG_ZOO)")
load = cache(load_recipe)
ENTRIES = official_recipes()
PAIRS = [(entry.name, name) for entry in ENTRIES.values() for name in entry.official]
EACH_PAIR = pytest.mark.parametrize(("recipe_name", "official"), PAIRS)
# Recipes for new training leave the official value where it only serves released weights (README, "Official weights").
DEPARTURES = {
    "backbone.pretrained": (True, False),  # a converted network has its weights
    "pixel_decoder.extra_positions": ("own", "swapped"),
    "decoder.denoising_overfull": ("sample", "skip"),
    "loss.boxes_relative_to": ("padded", "image"),
    "postprocess.softmax_score": ("probability", "sigmoid"),
}
# (recipe, its result): the model zoo lists it at another configuration's yaml
LISTED_ELSEWHERE = {
    "coco_instance_maskdino_swinl_no_mask_enhance": "coco_instance_swin_maskdino_R50_bs16_50ep_4s_dowsample1_2048"
}


def value(recipe: Recipe, key: str):
    section, _, name = key.rpartition(".")
    return getattr(getattr(recipe, section) if section else recipe, name)


def differences(recipe: Recipe, official: dict) -> dict:
    """key -> (ours, theirs), where they mean something else."""
    found = {}
    for key, theirs in official.items():
        if key in ("num_classes", "dataset", "files"):
            continue
        ours = value(recipe, key)
        if key == "backbone.name":
            ours = ours.split(".")[0]  # timm's name of weights follows
        if key == "backbone.norm" and "resnet" not in recipe.backbone.name:
            continue  # there is no batch norm
        if key == "train.milestones":
            ours, theirs = (
                [round(m * recipe.train.steps) for m in milestones] for milestones in (ours, theirs)
            )
        if ours != theirs and DEPARTURES.get(key) != (ours, theirs):
            found[key] = (ours, theirs)
    return found


@cache
def record(official: str) -> dict:
    family, name = official.split("/")
    folder = {ours: theirs for theirs, ours in _FOLDERS.items()}[family]
    return json.loads(gzip.decompress((ZOO / folder / f"{name}.json.gz").read_bytes()))


def test_every_published_configuration_has_one_recipe():
    names = Counter(name for entry in ENTRIES.values() for name in entry.official)
    assert names == Counter(list(published()))


def test_parts_do_not_overlap_and_lines_change_something():
    known = dict(key_paths())
    for entry in ENTRIES.values():
        for a, b in combinations(entry.parts, 2):
            assert not a.keys() & b.keys(), entry.name
        together = {key: v for part in entry.parts for key, v in part.items()}
        assert together.keys() | entry.changes.keys() <= known.keys()
        unchanged = [key for key, v in entry.changes.items() if together.get(key) == v]
        assert not unchanged, entry.name
        assert load(entry.name).distill.steps == load(entry.name).train.steps


def test_names_are_their_parts():
    for name in ENTRIES:
        data, task, decoder, backbone = name.split("_")[:4]
        recipe = load(name)
        assert (recipe.task, recipe.decoder.kind) == (task, decoder)
        network, weights = recipe.backbone.name.split(".")
        short = {"r": "resnet", "sw": "swin", "di": "dinov2", "de": "deit"}
        assert next(long for start, long in short.items() if backbone.startswith(start)) in network
        assert data[:4] in recipe.data.root.lower().replace("adechallengedata2016", "ade20k")
        assert "in1k" in weights or "in22k" in weights or weights == "lvd142m"


@EACH_PAIR
def test_recipe_is_the_published_configuration(recipe_name, official):
    assert differences(load(recipe_name), published()[official]) == {}


@NEEDS_ZOO
@EACH_PAIR
def test_recipe_is_what_the_official_options_say(recipe_name, official):
    """Every key that options have a word for, defaults included."""
    config = record(official)["config_resolved"]
    keys = recipe_keys(config)
    assert len(keys) > 60
    assert differences(load(recipe_name), keys) == {}
    assert config["INPUT"]["CROP"]["SINGLE_CATEGORY_MAX_AREA"] == 1.0  # a plain crop
    assert config["TEST"]["EVAL_PERIOD"] == load(recipe_name).train.eval_every


@NEEDS_ZOO
@EACH_PAIR
def test_pretrained_weights_are_the_official_ones(recipe_name, official):
    network, weights = load(recipe_name).backbone.name.split(".")
    start = Path(record(official)["init_weights"]).name.removesuffix(".pkl")
    if start in ("R-50", "R-101"):
        assert (network, weights) == (f"resnet{start[2:]}", "tv_in1k")
    elif start:
        assert weights == ("ms_in22k" if start.endswith("_22k") else "ms_in1k")
        assert network == start.removesuffix("_22k")
    else:  # the backbone's own code downloads them
        assert weights in ("lvd142m", "fb_in1k")


@NEEDS_ZOO
@EACH_PAIR
def test_result_is_that_of_the_model_zoo(recipe_name, official):
    family = official.split("/")[0]
    listed = record(f"{family}/{LISTED_ELSEWHERE.get(recipe_name, official.split('/')[1])}")["released"]
    result = ENTRIES[recipe_name].result
    if family == "guided_distillation" or not listed:
        assert not result or len(ENTRIES[recipe_name].official) > 1
        return
    rows = [[cell for cell in link["row"] if "." in cell] for link in listed]
    assert result.split()[0] in [row[0] for row in rows]


@pytest.mark.parametrize("name", ENTRIES)
def test_model_has_as_many_parameters(name):
    entry = ENTRIES[name]
    classes = published()[entry.official[0]]["num_classes"] if entry.official else 80
    with torch.device("meta"):
        model = build_model(load(name), classes, load_weights=False)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if not entry.official or not ZOO.is_dir():
        assert parameters > 4e7
        return
    for official in entry.official:
        assert record(official)["params"]["total"] == parameters


def test_header_says_where_the_distillation_comes_from():
    for name, entry in ENTRIES.items():
        text = recipe_text(name)
        assert len(text.splitlines()) <= 60
        published_there = any(official.startswith("guided_distillation") for official in entry.official)
        assert ("nobody has tuned them" in text) != published_there
        assert ("Labels: --ratio" in text) == published_there
        assert all(official in text for official in entry.official)


def test_list_is_grouped_and_filtered():
    def run(*words: str) -> list[str]:
        done = CliRunner().invoke(app, ["recipe", "list", *words])
        return done.stdout.splitlines() if done.exit_code == 0 else [str(done.exit_code)]

    everything = run()
    assert "COCO panoptic segmentation" in everything
    assert sum(line.startswith("  ") for line in everything) == len(ENTRIES) + 7
    assert [line.split()[0] for line in run("ADE20k", "swinl") if line.startswith("  ")] == [
        f"ade20k_{task}_mask2former_swinl" for task in ("instance", "panoptic", "semantic")
    ]
    assert "cityscapes_semantic_maskdino_r50 " in run("cityscapes_semantic_maskdino_R50_bs16_90k_steplr")[1]
    as_json = json.loads("\n".join(run("--json", "shapes_semantic")))
    assert list(as_json) == ["shapes_semantic"]
    assert run("swinx") != run()
    assert len(run("swinx")) == 1


def test_published_names_are_listed_with_their_recipes():
    lines = dict(line.split() for line in CliRunner().invoke(app, ["convert", "--list"]).stdout.splitlines())
    assert lines == {official: name for name, official in PAIRS}


def test_a_copy_is_the_recipe(tmp_path):
    copy = tmp_path / "mine.yaml"
    assert (
        CliRunner().invoke(app, ["recipe", "copy", "mapillary_semantic_mask2former_r50", str(copy)]).exit_code
        == 0
    )
    assert load_recipe(str(copy)) == load_recipe("mapillary_semantic_mask2former_r50")


@pytest.mark.parametrize("name", ["official", str(table_file())])
def test_the_table_is_no_recipe(name):
    with pytest.raises(RecipeError, match="a table of recipes"):
        load_recipe(name)


def test_a_name_nearly_right_is_corrected():
    with pytest.raises(RecipeError, match="did you mean 'ade20k_panoptic_mask2former_swinl'"):
        load_recipe("ade20k_panoptic_mask2fromer_swinl")

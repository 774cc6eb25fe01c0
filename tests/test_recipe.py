"""Recipes: strict reading, all faults at once with line and nearest key, overrides, the shipped files."""

import dataclasses
import re

import pytest
import yaml

from gdseg.errors import RecipeError
from gdseg.recipe import Recipe
from gdseg.recipe_yaml import (
    apply_overrides,
    dump_recipe,
    key_paths,
    load_recipe,
    parse_recipe,
    recipe_text,
    shipped_recipes,
)


def faults(text: str, overrides: list[str] | None = None) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "my.yaml", overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_dumped_recipe_reads_back_unchanged():
    recipe = Recipe()
    recipe.data.unlabelled = ["a b", "c: d"]
    recipe.data.split = "yes"
    recipe.train.lr = 1e-5
    assert parse_recipe(dump_recipe(recipe), "dump") == recipe


def test_all_faults_are_reported_at_once_with_line_and_nearest_key():
    text = "task: instanse\ntrain:\n  stepz: 3\n  lr: fast\n  lr: 1\ndistil: {}\nseed: true\n"
    found = faults(text, ["data.ratio=1.5"])
    assert "6 faults" not in found
    assert (
        "my.yaml:1: 'task' is 'instanse', must be one of instance, panoptic, semantic (did you mean 'instance'?)"
        in found
    )
    assert "my.yaml:3: unknown key 'train.stepz', did you mean 'train.steps'?" in found
    assert "my.yaml:4: 'train.lr' is 'fast', must be a number" in found
    assert "my.yaml:5: key 'train.lr' is given twice" in found
    assert "my.yaml:6: unknown key 'distil', did you mean 'distill'?" in found
    assert "my.yaml:7: 'seed' is 'true', must be a whole number" in found
    assert "data.ratio=1.5: 'data.ratio' is 1.5, must be at most 1.0: share of the training images" in found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("burn_in: 3", "did you mean 'distill.burn_in_steps'?"),
        ("steps: 3", "unknown key 'steps', did you mean 'train.steps' or 'distill.steps'?"),
        ("train: {warmup_step: 3}", "did you mean 'train.warmup_steps'?"),
        ("train: {learning_rate: 1}", "unknown key 'train.learning_rate', did you mean 'train.lr'?"),
        ("train: {lr: .nan}", "must be a number"),
        ("train: {steps: 1.5}", "must be a whole number"),
        ("train: {tensorboard: 1}", "must be true or false"),
        ("data: {unlabelled: folder}", "must be a list"),
        ("augment: {canvas: [64]}", "must have 2 items, not 1"),
        ("train: 3", "'train' must be keys with values"),
        ("- a", "'a recipe' must be keys with values"),
        ("task: [", "not YAML"),
        ("train: !!python/object/apply:os.system ['echo hacked']", "'train' must be keys with values"),
        ("train: {lr: -1}", "must be above 0"),
        ("data: {root: no}", "write it in quotes"),
        ("decoder: {kind: mask2former}\npostprocess: {boxes: head}", "mask2former predicts no boxes"),
        ("train: {batch_size: 5, accumulate: 2}", "must divide by train.accumulate"),
    ],
)
def test_each_kind_of_fault_is_named(text, fault):
    assert fault in faults(text)


@pytest.mark.parametrize("key", ["a", "the", "''", "_"])
def test_no_key_is_guessed_from_a_word_that_begins_many_explanations(key):
    assert "did you mean" not in faults(f"train: {{{key}: 1}}")


def test_numbers_are_read_as_people_write_them():
    recipe = parse_recipe("train: {lr: 1e-4, steps: 10_000, clip_norm: 1}", "my.yaml")
    assert recipe.train.lr == 1e-4
    assert recipe.train.steps == 10000
    assert isinstance(recipe.train.clip_norm, float)


def test_overrides_win_and_do_not_touch_the_original():
    before = Recipe()
    after = apply_overrides(before, ["train.lr=5e-5", "data.unlabelled=[a, b]", "data.split=ids.txt"])
    assert (after.train.lr, after.data.unlabelled, after.data.split) == (5e-5, ["a", "b"], "ids.txt")
    assert before == Recipe()


def test_a_wrong_override_says_what_overrides_look_like():
    with pytest.raises(RecipeError, match=r"is not an override, which looks like train.lr=5e-5"):
        load_recipe("custom", ["lr"])


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'shapes_maskdino'"):
        load_recipe("shapes_maskdin")


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_complete_short_and_tell_their_command(name):
    text = recipe_text(name)
    written = yaml.safe_load(text)
    flat = {
        f"{a}.{b}" if isinstance(v, dict) else a
        for a, v in written.items()
        for b in (v if isinstance(v, dict) else [0])
    }
    assert flat == {path for path, _ in key_paths()}
    load_recipe(name)
    lines = text.splitlines()
    assert "gdseg pretrain -r" in "\n".join(lines[:3])
    assert name == "custom" or len(lines) <= 60


def test_custom_explains_every_key():
    text = recipe_text("custom")
    for path, field in key_paths():
        leaf = path.rsplit(".", 1)[-1]
        assert re.search(rf"^ *{leaf}: .*# {re.escape(field.metadata['doc'])}$", text, re.MULTILINE), path


def test_every_key_is_documented_and_has_a_default_within_its_rules():
    assert all(field.metadata["doc"] for _, field in key_paths())
    assert parse_recipe(dump_recipe(Recipe()), "defaults") == Recipe()
    assert dataclasses.is_dataclass(Recipe)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (
            ["decoder.mask_prior=ellipse", "loss.boxes_relative_to=image"],
            "mask_prior needs loss.boxes_relative_to",
        ),
        (["task=semantic", "distill.mask_stride=1", "train.best=auto"], "mask_stride needs task: instance"),
        (["distill.final_steps=700"], "final_steps must be fewer"),
        (["distill.cutmix=0.5", "distill.unlabelled_batch_size=1"], "unlabelled_batch_size: 2 or more"),
        (
            ["augment.copy_paste=0.5", "train.batch_size=1"],
            "augment.copy_paste needs train.batch_size: 2 or more",
        ),
        (["distill.fallback=raise", "distill.thresholds=ema"], "fallback: raise needs"),
        (["distill.feature_backbone=resnet18", "distill.feature_weight=1"], "needs feature_weights"),
        (["distill.boxes=head", "loss.boxes_relative_to=image"], "boxes: head needs loss.boxes_relative_to"),
        (["task=semantic", "distill.pixel_margin=0.1"], "pixel_margin needs task: instance"),
        (["task=semantic", "distill.fallback=raise"], "fallback: raise moves thresholds of objects"),
        (["distill.fallback=freeze"], "freeze needs distill.alarm_agreement"),
        (
            ["augment.mode=rescale", "augment.test_shortest=64", "augment.canvas=[512,512]"],
            "must lie within augment.scale",
        ),
    ],
)
def test_keys_that_would_silently_do_nothing_or_harm_are_refused(changes, rule):
    with pytest.raises(RecipeError, match=rule):
        load_recipe("shapes_maskdino", changes)

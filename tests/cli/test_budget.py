"""`gdseg budget`: variants, numbers and mistakes on the command line, and one tiny experiment."""

import json

import pytest

from gdseg.cli.budget import _cell, _diverged, _lacking, read_variants
from gdseg.errors import RecipeError, UsageError
from gdseg.train.budget_plan import Arm


def test_variants_are_the_recipe_with_other_keys():
    texts = ["soft: distill.weighting=score distill.copy_paste=0", "x: 'augment.canvas=[64, 64]'"]
    assert read_variants(texts) == {
        "recipe": [],
        "soft": ["distill.weighting=score", "distill.copy_paste=0"],
        "x": ["augment.canvas=[64, 64]"],
    }


@pytest.mark.parametrize(
    "text",
    ["distill.weighting=score", "soft:", ": a=1", "recipe: a=1", "a: 'b=1"],
)
def test_what_is_no_variant_is_refused(text):
    with pytest.raises(UsageError) as refused:
        read_variants([text])
    assert refused.value.hint


def test_a_variants_unknown_key_names_the_nearest(gdseg):
    result = gdseg("budget", "--variant", "soft: distill.weigthing=score", "--dry-run")
    assert isinstance(result.exception, RecipeError)
    assert "did you mean 'distill.weighting'" in str(result.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--seeds", "0,0"),
        ("--seeds", "a"),
        ("--seeds=-1",),
        ("--ratios", "0.1,x"),
        ("--ratios", "0.1,1.5"),
        ("--arms", "teacher,studnt"),
        ("seed=3",),  # would be replaced by --seeds
        ("--ratios", "0.1", "data.split=mine.json"),
        ("--ratios", "0.1", "data.ratio=0.2"),
        ("--variant", "a: seed=1"),
        ("--variant", "a: data.ratio=0.5"),
        ("--variant", "a: data.split=mine.txt"),
    ],
)
def test_mistakes_are_usage_errors(gdseg, arguments):
    assert isinstance(gdseg("budget", *arguments).exception, UsageError)


def test_a_tiny_experiment(gdseg, tiny_settings, tiny_data, tmp_path):
    settings = [*(s for s in tiny_settings if "ratio" not in s), f"data.root={tiny_data}"]
    command = ("budget", *settings, "--ratios", "0.5,1", "--arms", "labels,all", "--out", "b")
    planned = gdseg(*command, "--dry-run")
    assert planned.stdout.count("to do") == 2  # labels alone at ratio 1 are all labels
    assert not (tmp_path / "b").exists()
    done = gdseg(*command, "--json")
    report = json.loads(done.stdout)
    assert [(r["ratio"], r["labelled"]) for r in report["table"]] == [(0.5, 6), (1.0, 12)]
    again = gdseg(*command)
    assert again.exception is None
    assert "labels alone" in again.stdout
    assert "of the way to all labels" not in again.stdout  # no student, and so no table of its gains
    assert "minutes" in again.stdout
    assert (
        "not told without --arms student: over labels alone, gap from teacher, gap from labels"
        in again.stderr
    )
    assert gdseg(*command, "--dry-run").stdout.count("finished") == 2


def test_a_variant_may_have_another_split(gdseg, tiny_settings, tiny_data, tmp_path):
    (tmp_path / "two.txt").write_text("1\n2\n")
    (tmp_path / "three.txt").write_text("1\n2\n3\n")
    settings = [s for s in tiny_settings if "ratio" not in s]
    command = (
        "budget",
        *settings,
        "--data",
        tiny_data,
        "--arms",
        "labels",
        "data.split=two.txt",
        "--out",
        "b",
    )
    done = gdseg(*command, "--variant", "three: data.split=three.txt", "--json")
    assert [(r["variant"], r["labelled"]) for r in json.loads(done.stdout)["table"]] == [
        ("recipe", 2),
        ("three", 3),
    ]


def test_runs_json_tells_runs_of_different_commands_apart(gdseg, tiny_settings, tiny_data, tmp_path):
    command = ("budget", *tiny_settings, "--data", tiny_data, "--arms", "labels", "--out", "b")
    assert gdseg(*command).exception is None
    assert gdseg(*command, "loss.points=32", "--variant", "lr: train.lr=1e-4").exception is None
    named = json.loads((tmp_path / "b" / "runs.json").read_text())
    recipes = [row["recipe"] for names in named.values() for row in names.values()]
    assert all(recipe.startswith("shapes_maskdino ") for recipe in recipes)
    assert sorted(recipe.partition("teacher_flip=false")[2].strip() for recipe in recipes) == [
        "",
        "loss.points=32",
        "loss.points=32 train.lr=1e-4",
    ]
    assert len({name for names in named.values() for name in names}) == 3

    (tmp_path / "b" / "runs.json").write_text('{"cut off')
    assert gdseg(*command).exception is None
    assert len(json.loads((tmp_path / "b" / "runs.json").read_text())) == 1
    assert (tmp_path / "b" / "runs.broken.json").read_text() == '{"cut off'


def test_gains_that_need_other_arms_are_named():
    assert _lacking(["labels", "teacher", "student", "all"]) == []
    (line,) = _lacking(["teacher", "student"])
    assert line.startswith("not told without --arms labels,all: over labels alone")
    assert _lacking(["student", "all"]) == [
        "not told without --arms labels: over labels alone, gap from labels"
    ]


def test_a_mean_says_of_how_many_seeds_it_is():
    assert _cell(None, 3) == "-"
    assert _cell({"mean": 0.51, "std": 0.014, "values": [0.5, 0.52]}, 2) == "51.0 \u00b1 1.4"
    assert _cell({"mean": 0.51, "std": 0.014, "values": [0.5, 0.52]}, 3) == "51.0 \u00b1 1.4 (2 of 3)"


def test_a_run_that_diverged_is_told_below_the_table():
    lost, there = (Arm("recipe", 0.1, seed, "student") for seed in (2, 0))
    rows = [{"name": lost.name, "diverged": "step 3: a gradient is NaN"}, {"name": there.name, "score": 0.5}]
    assert _diverged({"arms": rows}) == ["recipe, 0.1, seed 2: student: step 3: a gradient is NaN"]


def test_an_experiment_or_a_run_of_it_in_use_is_refused(gdseg, tiny_settings, tiny_data, tmp_path, held):
    command = ("budget", *tiny_settings, f"data.root={tiny_data}", "--arms", "teacher", "--out", "b")
    with held(tmp_path / "b"):
        refused = gdseg(*command, "--json").exception
        assert isinstance(refused, UsageError)
        assert refused.where == "b"
        assert not list((tmp_path / "b").glob("runs"))
    planned = gdseg(*command, "--dry-run").stdout
    (folder,) = {word for word in planned.split() if word.startswith("pretrain-")}
    run = tmp_path / "b" / "runs" / folder
    with held(run):  # by an orphan of --jobs, or by pretrain --resume
        for jobs in (1, 2):
            refused = gdseg(*command, "--jobs", jobs, "--json").exception
            assert isinstance(refused, UsageError)
            assert refused.where == f"b/runs/{folder}"
        assert not list(run.glob("*.jsonl"))
    assert gdseg(*command, "--jobs", 2, "--json").exception is None
    assert (run / "result.json").is_file()
    with held(run):
        resumed = gdseg("pretrain", "--resume", "--out", run).exception
        assert "at work in this folder" in str(resumed)

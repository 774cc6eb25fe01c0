"""The page: its numbers are the run's, whatever is gone is said, names stay text, nothing is fetched."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gdseg.cli.app import app
from gdseg.data.shapes import ShapesOptions, make_shapes
from gdseg.errors import CheckpointError, DataError, UsageError
from gdseg.models.checkpoint import load_network, save_network
from gdseg.recipe_yaml import apply_overrides, dump_recipe, load_recipe
from gdseg.report.compare import budget_lines
from gdseg.report.run import open_run
from gdseg.runs import find_checkpoint, read_run
from gdseg.train.distill import distill
from gdseg.train.pretrain import pretrain

from .conftest import CPU, HOSTILE

Runs = Callable[[str], tuple[Path, Path]]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Parsed(HTMLParser):
    """Text, tags and attributes of a page; fails where an element is not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def report(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def parsed(path: Path) -> Parsed:
    return Parsed(path.read_text(encoding="utf-8"))


def copied(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to))


@pytest.fixture(scope="module")
def page(runs_of: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a distillation of instances."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    result = report(runs_of("instance")[1], "-o", out, "--images", 4, "-q")
    assert result.exit_code == 0, result.exception
    return out


def test_the_runs_numbers_are_there(page: Path, runs_of: Runs) -> None:
    text, run = parsed(page).text, runs_of("instance")[1]
    about = json.loads((run / "run.json").read_text())
    assert about["data_sha256"][:16] in text
    assert about["split_sha256"][:16] in text
    assert "4 of 8 (50 %), drawn with seed 0" in text
    rows = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    for row in rows:
        name = "EMA teacher" if row["role"] == "teacher" else "student"
        assert f"{name} {100 * row['mask_ap']:.1f}" in text
    best = max(rows, key=lambda row: row["mask_ap"])["role"].replace("teacher", "EMA teacher")
    assert f"Of the run's own networks the best is shown, the {best}." in text
    spent = json.loads((run / "time.jsonl").read_text())
    assert f"{spent['peak_rss_mib'] / 1024:.2f} GiB" in text
    for title in (
        "Losses",
        "Pseudo-labels",
        "precision recall IoU area",
        "Right, and found, by threshold",
        "Each class, mask AP, %",
        "Worst images",
    ):
        assert title in text


def test_pictures_and_plots_are_inside_and_nothing_else_is_named(page: Path) -> None:
    tags = parsed(page).tags
    pictures = [attributes["src"] or "" for tag, attributes in tags if tag == "img"]
    # 4 pseudo-labelled images and 3 validation images, each beside its truth
    assert len(pictures) == 2 * (4 + 3)
    assert all(source.startswith("data:image/webp;base64,") for source in pictures)
    assert sum(tag == "svg" for tag, _ in tags) >= 7
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")]
        targets = [attributes.get(name) or "" for name in ("href", "xlink:href", "src", "action", "xmlns")]
        assert all(target.startswith(("#", "data:image/webp")) for target in targets if target)
        assert not re.search(r"url\((?!#)", attributes.get("style") or "")
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:url\(|href=")#([\w-]+)', page.read_text())
    assert set(used) <= set(ids)


def test_hostile_names_stay_text(page: Path) -> None:
    found = parsed(page)
    assert "<script" not in page.read_text()
    for name in HOSTILE:
        assert name in found.texts


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_maps(task: str, runs_of: Runs, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    result = report(runs_of(task)[1], "-o", out, "--images", 3, "--json")
    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout)["bytes"] == out.stat().st_size
    text = parsed(out).text
    assert {"panoptic": "panoptic quality, %", "semantic": "semantic, %"}[task] in text
    assert {"panoptic": "segments matched at IoU 0.5", "semantic": "pixels one by one"}[task] in text
    assert "Best images" in text or "Worst images" in text


def test_pretraining_alone_has_no_pseudo_labels(runs_of: Runs, tmp_path: Path) -> None:
    run = copied(runs_of("instance")[0], tmp_path / "run")
    assert report(run, "-q").exit_code == 0
    text = parsed(run / "report.html").text
    assert "Pseudo-labels" not in text
    assert "Each class" in text


def test_the_data_is_gone(runs_of: Runs, tmp_path: Path) -> None:
    run = copied(runs_of("instance")[1], tmp_path / "run")
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(re.sub(r"root: [^,]+,", "root: /nowhere/at/all,", recipe))
    assert report(run, "-q").exit_code == 0
    text = parsed(run / "report.html").text
    assert "The data set cannot be opened (no such data set; /nowhere/at/all)" in text
    assert "AP and AR, %" in text  # as it was logged
    assert "Worst images" not in text


def test_what_of_the_rule_is_not_applied_is_said(page: Path, runs_of: Runs, tmp_path: Path) -> None:
    assert "Not applied here" not in parsed(page).text
    run = copied(runs_of("instance")[1], tmp_path / "run")
    recipe = run / "recipe.yaml"
    text = recipe.read_text()
    for old, new in {"thresholds: fixed": "thresholds: ema", "score: class": "score: class_mask"}.items():
        assert f" {old}," in text
        text = text.replace(f" {old},", f" {new},", 1)
    recipe.write_text(text)
    (run / "pseudo.jsonl").unlink(missing_ok=True)
    result = report(run, "-o", tmp_path / "r.html", "--images", 1, "-q")
    assert result.exit_code == 0, result.exception
    said = parsed(tmp_path / "r.html").text
    assert "may differ: distill.thresholds=ema." in said
    assert "objects with a class score times mean mask probability above" in said
    values = [0.31, *[0.4] * (len(json.loads((run / "run.json").read_text())["classes"]) - 1)]
    (run / "pseudo.jsonl").write_text(json.dumps({"step": 1, "thresholds": values}))
    assert report(run, "-o", tmp_path / "r.html", "--overwrite", "--images", 1, "-q").exit_code == 0
    said = parsed(tmp_path / "r.html").text
    assert "Not applied here" not in said
    assert re.search(r"a threshold of its own: .*0\.31 to 0\.40 for the EMA teacher", said)


def test_a_run_that_looks_in_tiles_is_reported_in_tiles(runs_of: Runs, tmp_path: Path) -> None:
    run = copied(runs_of("instance")[1], tmp_path / "run")
    for file in (run / "checkpoints").glob("*.safetensors"):
        network = load_network(file)
        recipe = apply_overrides(network.recipe, ["inference.tile=32", "inference.overlap=16"])
        save_network(replace(network, recipe=recipe), file)
    (run / "run.json").write_text(json.dumps({**read_run(run), "teacher": None}))  # it has its own recipe
    result = report(run, "-o", tmp_path / "r.html", "--images", 1, "-q")
    assert result.exit_code == 0, result.exception
    said = parsed(tmp_path / "r.html").text
    assert "in tiles of 32 pixels, without augmentation" in said
    assert "class scores times mean mask probabilities" in said
    assert "inference.tile=" not in said  # among what is not applied
    assert "Pseudo-labels an image, by threshold" not in said


def test_why_a_sure_object_is_dropped_is_said(runs_of: Runs, tmp_path: Path) -> None:
    """Each reason that the run's rule has, none that it has not."""
    run = tmp_path / "run"
    shutil.copytree(runs_of("instance")[1], run)
    plain = load_recipe(str(run / "recipe.yaml"), ["distill.mask_nms=0", "distill.max_instances=0"])
    keys = ["distill.mask_nms=0.6", "distill.max_instances=7", "distill.min_area=3"]
    for recipe, words in (
        (plain, ""),
        (apply_overrides(plain, keys), "IoU above 0.6; so are all but the best 7"),
    ):
        (run / "recipe.yaml").write_text(dump_recipe(recipe))
        result = CliRunner().invoke(
            app, ["report", str(run), "--out", str(tmp_path / "r.html"), "--overwrite"]
        )
        assert result.exit_code == 0, result.exception
        text = Parsed((tmp_path / "r.html").read_text()).text
        assert f"of at most {recipe.distill.min_area:g} pixels at stride 4 are dropped" in text
        assert ("surer one" in text, words in text) == (bool(words), True)


def test_changed_labels_and_a_lost_teacher_are_said(runs_of: Runs, tmp_path: Path) -> None:
    run = copied(runs_of("instance")[1], tmp_path / "run")
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(
        json.dumps({**about, "data_sha256": "0" * 64, "teacher": "/gone.safetensors"})
    )
    assert report(run, "-q", "--images", 2).exit_code == 0
    text = parsed(run / "report.html").text
    assert "not those of the run any more" in text
    assert "The pretrained teacher it started from is gone" in text


@pytest.mark.parametrize("kind", ["numbers", "lists", "binary"])
def test_any_rubbish_in_a_run_directory_makes_a_page(kind: str, runs_of: Runs, tmp_path: Path) -> None:
    run, rubbish = (
        copied(runs_of("instance")[1], tmp_path / "run"),
        {"numbers": 7, "lists": [[], {}], "binary": None}[kind],
    )
    about = dict.fromkeys(json.loads((run / "run.json").read_text()), rubbish)
    surrogate = (
        '{"step": 1, "loss": 2.0, "losses": {"\\ud800$<b>": 1.0, "x": 1e400}, "pseudo_per_image": 1e299}\n'
    )
    (run / "run.json").write_text(json.dumps({**about, "verb": "distill", "command": "\ud800<b>"}))
    for name in ("metrics", "eval", "time"):
        lines = json.dumps({"step": 3, "role": rubbish, "mask_ap": 0.5, "seconds": rubbish, "loss": 3})
        (run / f"{name}.jsonl").write_text(
            lines + surrogate + surrogate.replace("\\ud800", "") + "\n[1]\n{\n"
        )
    (run / "split.json").write_text(json.dumps(rubbish))
    (run / "recipe.yaml").write_bytes(b"\xff\x00" if kind == "binary" else b"task: 7\n")
    if kind == "binary":
        for file in (run / "checkpoints").iterdir():
            file.write_bytes(b"\xff" * 100)
    result = report(run, "-q")
    assert result.exit_code == 0, result.exception
    assert "The recipe cannot be read" in parsed(run / "report.html").text


def test_broken_networks_are_said(runs_of: Runs, tmp_path: Path) -> None:
    run = copied(runs_of("instance")[1], tmp_path / "run")
    for file in (run / "checkpoints").glob("*.safetensors"):
        file.write_bytes(b"\xff" * 100)
    assert report(run, "-q", "--images", 2).exit_code == 0
    text = parsed(run / "report.html").text
    assert "The validation images were not evaluated" in text
    assert "No pseudo-labels are shown" in text


def test_without_networks_nothing_is_loaded(
    runs_of: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("gdseg.report.results.load_network", refuse)
    monkeypatch.setattr("gdseg.report.pseudo.load_model", refuse)
    assert report(runs_of("instance")[1], "-o", tmp_path / "r.html", "--no-network", "-q").exit_code == 0
    assert "AP and AR, %" in parsed(tmp_path / "r.html").text


def test_several_runs_are_compared(runs_of: Runs, tmp_path: Path) -> None:
    """Gap from the teacher and label budget, from logs written by hand."""
    teacher, student = (copied(run, tmp_path / run.name) for run in runs_of("instance"))
    full = copied(teacher, tmp_path / "full")
    for run, role, ap in ((teacher, "teacher", 0.2), (student, "student", 0.35), (full, "teacher", 0.5)):
        (run / "eval.jsonl").write_text(json.dumps({"step": 4, "role": role, "mask_ap": ap}))
    about, split = (json.loads((full / f"{name}.json").read_text()) for name in ("run", "split"))
    longer = load_recipe(str(full / "recipe.yaml"), ["train.steps=10"])  # the student's 6 and its teacher's 4
    (full / "recipe.yaml").write_text(dump_recipe(longer))
    ids = sorted(range(1, 9))
    (full / "run.json").write_text(json.dumps({**about, "labelled": 8}))
    (full / "split.json").write_text(json.dumps({**split, "ids": ids, "sha256": None, "ratio": 1.0}))
    monkey = json.loads((student / "run.json").read_text())
    shutil.copy(monkey["teacher"], student / "t.safetensors")
    _store_metric(student / "t.safetensors", 0.2)
    from gdseg.files import file_sha256

    monkey |= {
        "teacher": str(student / "t.safetensors"),
        "teacher_sha256": file_sha256(student / "t.safetensors"),
    }
    (student / "run.json").write_text(json.dumps(monkey))
    out = tmp_path / "all.html"
    result = report(teacher, student, full, "-o", out, "--no-network", "-q")
    assert result.exit_code == 0, result.exception
    text = parsed(out).text
    assert "mask AP by label budget" in text
    # pretraining's network has one column
    assert "run pretrained teacher student gap from teacher metric labelled images seed" in text
    gap = r"student 20\.0 35\.0 50\.0 mask AP 4 0 distill"  # (35 - 20) / (50 - 20)
    assert re.search(gap, text), text[:600]


def test_only_runs_of_one_data_set_and_step_count_share_a_line(runs_of: Runs) -> None:
    def lines(*changes: tuple[dict[str, Any], list[str]]) -> dict[str, list[float]]:
        """Label -> labelled images, of pretraining with 2, 4, .. of them, each changed."""
        runs = []
        for number, (about, recipe) in enumerate(changes, 1):
            run = open_run(runs_of("instance")[0])
            assert run.recipe is not None
            run.path, run.recipe = Path(f"run{number}"), apply_overrides(run.recipe, recipe)
            run.about |= {"labelled": 2 * number, **about}
            run.evals = [{"step": 4, "role": "teacher", "mask_ap": 0.1}]
            runs.append(run)
        return {line.label: [x for x, _ in line.points] for line in budget_lines(runs)}

    same, other = ({}, []), ({"data": "/elsewhere/mine", "data_sha256": "f" * 64}, [])
    assert lines(same, same, same) == {"labels alone": [2, 4, 6]}
    assert lines(same, same, ({}, ["train.steps=9"])) == {
        "labels alone, 4 steps": [2, 4],
        "labels alone, 9 steps\n(not joined: other data or steps)": [6],
    }
    moved = lines(same, same, other, other)
    assert list(moved.values()) == [[2, 4], [6, 8]]
    assert list(moved)[1] == "labels alone, mine ffffff"
    unknown = ({"data_sha256": None}, [])
    assert list(lines(same, same, unknown, unknown).values()) == [[2, 4], [6], [8]]


def test_the_ranking_of_images_is_said_in_the_tasks_words(page: Path) -> None:
    text = parsed(page).text
    assert "Worst images (by the IoU of the objects found, less for each missed or wrong one)" in text
    assert "panoptic" not in text.split("Worst images")[1].split("Time and memory")[0]


def _store_metric(path: Path, mask_ap: float) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(str(path), framework="pt") as file:
        metadata = dict(file.metadata())
    save_file(load_file(path), path, {**metadata, "metrics": json.dumps({"mask_ap": mask_ap})})


def test_truth_for_folders_of_unlabelled_images(tiny_settings: list[str], tmp_path: Path) -> None:
    make_shapes(tmp_path / "data", ShapesOptions(train=4, val=2, size=64))
    make_shapes(tmp_path / "more", ShapesOptions(train=3, val=1, size=64, seed=5))
    for image in (tmp_path / "data" / "val").iterdir():  # left out, in training and here
        shutil.copy(image, tmp_path / "more" / "train" / f"copy-{image.name}")
    settings = [
        *tiny_settings,
        f"data.root={tmp_path / 'data'}",
        "data.ratio=1.0",
        "train.steps=1",
        "distill.steps=1",
        f"data.unlabelled=[{tmp_path / 'more' / 'train'}]",
    ]
    recipe = load_recipe("shapes_maskdino", settings)
    pretrain(recipe, tmp_path / "t", CPU, quiet=True)
    distill(recipe, tmp_path / "d", find_checkpoint(tmp_path / "t"), CPU, quiet=True)
    out, truth = tmp_path / "r.html", tmp_path / "more" / "annotations" / "instances_train.json"
    assert report(tmp_path / "d", "-o", out, "-q").exit_code == 0
    assert "their truth is not known" in parsed(out).text
    assert "copy-" not in parsed(out).text
    result = report(tmp_path / "d", "-o", out, "--overwrite", "--truth", truth, "-q")
    assert result.exit_code == 0, result.exception
    assert "the truth of 3 of them is known" in parsed(out).text
    (tmp_path / "bad.json").write_text("[")
    wrong = report(tmp_path / "d", "-o", out, "--overwrite", "--truth", tmp_path / "bad.json", "-q")
    assert isinstance(wrong.exception, DataError)


def test_wrong_use(runs_of: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.html").write_text("old")
    (tmp_path / "folder").mkdir()
    run = runs_of("instance")[0]
    assert isinstance(report().exception, CheckpointError)  # there is no last run
    assert isinstance(report("folder").exception, UsageError)
    assert isinstance(report("nowhere").exception, UsageError)
    assert isinstance(report(run, "-o", "old.html").exception, UsageError)
    assert isinstance(report(run, "-o", "folder").exception, UsageError)
    assert isinstance(report(run, "-o", "new.html", "--truth", "nowhere.json").exception, UsageError)
    assert isinstance(report(run, "-o", "new.html", "--device", "abacus").exception, UsageError)
    assert (tmp_path / "old.html").read_text() == "old"
    assert not (tmp_path / "new.html").exists()

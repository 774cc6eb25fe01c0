"""`gdseg data` as a user types it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from gdseg.cli import data_convert
from gdseg.cli.data import data_app
from gdseg.errors import DataError, MachineError, RecipeError, UsageError
from gdseg.words import counted


def run(*words: str) -> Result:
    return CliRunner().invoke(data_app, list(words))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "set"
    result = run("shapes", "--out", str(folder), "--train", "20", "--val", "4", "--size", "48", "--seed", "3")
    assert result.exit_code == 0, result.output
    assert "made 20 training and 4 validation images" in result.output
    return folder


def test_shapes_refuses_to_overwrite(made: Path) -> None:
    refused = run("shapes", "--out", str(made)).exception
    assert isinstance(refused, UsageError)
    assert "--overwrite" not in str(refused.hint)  # which it does not have


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
@pytest.mark.parametrize("there", [True, False])
def test_interrupted_shapes_leave_nothing_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, there: bool
) -> None:
    folder = tmp_path / "set"
    if there:
        folder.mkdir()
    words = ["shapes", "--out", str(folder), "--train", "2", "--val", "1", "--size", "48", "--task", task]
    with monkeypatch.context() as interrupted:
        drawn, real = [], Image.Image.save

        def save(self: Image.Image, *arguments: object, **options: object) -> None:
            drawn.append(1)
            if len(drawn) == 3:
                raise KeyboardInterrupt
            real(self, *arguments, **options)  # type: ignore[arg-type]

        interrupted.setattr(Image.Image, "save", save)
        assert run(*words).exit_code != 0
    assert [path.name for path in tmp_path.rglob("*")] == (["set"] if there else [])
    assert run(*words).exit_code == 0
    assert run("inspect", str(folder)).exit_code == 0
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("there", [True, False])
def test_shapes_on_a_full_disk_are_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(27, "File too large")

    if there:
        (tmp_path / "set").mkdir()
    monkeypatch.setattr(Image.Image, "save", full)
    error = run("shapes", "--out", str(tmp_path / "set"), "--train", "2", "--val", "1").exception
    assert isinstance(error, MachineError)
    assert "--resume" not in str(error)
    assert [path.name for path in tmp_path.rglob("*")] == (["set"] if there else [])


def test_inspect_prints_a_table_or_json(made: Path) -> None:
    table = run("inspect", str(made))
    assert table.exit_code == 0
    assert "crescent" in table.output
    assert "faults: none" in table.output
    report = json.loads(run("inspect", str(made), "--json").stdout)
    assert report["parts"]["train"]["images"] == 20
    assert report["faults"] == []


def test_keys_name_what_looking_does_not_find(made: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(made, tmp_path / "set")
    (moved / "annotations" / "instances_train.json").rename(moved / "mine.json")
    out = str(tmp_path / "split.json")
    assert isinstance(run("split", str(moved), "--ratio", "1", "--out", out).exception, DataError)
    keys = ("data.train=mine.json", "data.train_images=train")
    assert run("split", str(moved), *keys, "--ratio", "1", "--out", out).exit_code == 0
    assert run("inspect", str(moved), *keys).exit_code == 0
    assert isinstance(run("inspect", str(moved), "data.trian=x").exception, RecipeError)


def test_inspect_lists_every_fault_and_exits_with_3(made: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(made, tmp_path / "set")
    path = broken / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    for annotation, category in zip(content["annotations"], (77, 78), strict=False):
        annotation["category_id"] = category
    path.write_text(json.dumps(content))
    result = run("inspect", str(broken))
    assert result.exit_code == 3
    assert "category_id is 77" in result.output
    assert "category_id is 78" in result.output
    assert "faults: 2 x undeclared category id" in result.output


def test_a_picture_and_a_repaired_copy(made: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(made, tmp_path / "set")
    path = broken / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 77
    path.write_text(json.dumps(content))
    shutil.copy(broken / "train" / content["images"][1]["file_name"], broken / "train" / "again.png")
    words = ("inspect", str(broken), "--picture", str(tmp_path / "p.png"), "--fix", str(tmp_path / "copy"))
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output  # the copy is without fault
    document = json.loads(result.stdout)
    assert len(document["picture"]) == 12 + 4
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width > 1000
    assert [(r["kind"], r["part"]) for r in document["repairs"]] == [("undeclared category id", "train")]
    assert (document["left"], document["copy"]) == ([], str(tmp_path / "copy"))
    assert run("inspect", str(tmp_path / "copy")).exit_code == 0
    assert isinstance(run(*words).exception, UsageError)  # the picture exists
    assert isinstance(run(*words, "--overwrite").exception, UsageError)  # so does the copy
    shutil.rmtree(tmp_path / "copy")
    result = run(*words, "--overwrite", "--no-files")
    assert "mended: train: undeclared category id" in result.output
    assert "mended faults: 1 x undeclared category id" in result.output
    assert "left faults: none" in result.output
    assert isinstance(run("inspect", str(made), "--picture", "p.gif").exception, UsageError)


@pytest.mark.parametrize("way", ["absolute", "linked", "parent"])
def test_the_copy_is_judged_whatever_way_its_labels_were_named(made: Path, tmp_path: Path, way: str) -> None:
    broken = shutil.copytree(made, tmp_path / "set")
    path = broken / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 77
    path.write_text(json.dumps(content))
    (tmp_path / "link").symlink_to(broken)
    named = {"absolute": path, "linked": tmp_path / "link" / "annotations" / path.name}
    train = named.get(way, f"../set/annotations/{path.name}")
    words = ["inspect", str(broken), f"data.train={train}", f"data.train_images={broken / 'train'}"]
    result = run(*words, "--fix", str(tmp_path / "copy"))
    assert result.exit_code == 0, result.output
    assert "left faults: none" in result.output


def test_a_copy_with_faults_that_could_not_be_mended(made: Path, tmp_path: Path) -> None:
    """A text of YOLO-seg is not written anew: its fault is left; the training image in val is not."""
    broken, copy = tmp_path / "set", tmp_path / "copy"
    assert run("convert", str(made), "--to", "yolo", "--out", str(broken), "--images", "copy").exit_code == 0
    images = sorted((broken / "images").glob("*/*.png"))
    train, val = (next(i for i in images if i.parent.name == part) for part in ("train", "val"))
    shutil.copy(val, train)
    shutil.copy(
        broken / "labels" / "val" / f"{val.stem}.txt", broken / "labels" / "train" / f"{train.stem}.txt"
    )
    text = sorted((broken / "labels" / "train").glob("*.txt"))[1]
    text.write_text("99 0.1 0.1 0.2 0.2 0.3 0.1\n")
    result = run("inspect", str(broken), "--fix", str(copy))
    assert result.exit_code == 3
    assert "mended faults: 1 x training image in val" in result.output
    assert "left faults: 1 x undeclared category id" in result.output
    assert run("inspect", str(copy)).exit_code == 3


def test_a_clean_set_is_not_copied(made: Path, tmp_path: Path) -> None:
    result = run("inspect", str(made), "--fix", str(tmp_path / "copy"))
    assert result.exit_code == 0
    assert "nothing to mend, no copy written" in result.output
    assert not (tmp_path / "copy").exists()


def test_many_faults_of_a_kind_are_cut_short(made: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(made, tmp_path / "set")
    path = broken / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"][:25]:
        annotation["category_id"] = 77
    path.write_text(json.dumps(content))
    result = run("inspect", str(broken), "--no-files")
    assert result.output.count("fault: train: undeclared category id") == 20
    assert ".. 5 more of 'undeclared category id'" in result.output
    assert run("inspect", str(broken), "--no-files", "--all").output.count("fault: train") == 25
    assert len(json.loads(run("inspect", str(broken), "--json").stdout)["faults"]) == 25


def test_split_writes_the_ids(made: Path, tmp_path: Path) -> None:
    result = run("split", str(made), "--ratio", "0.25", "--seed", "2", "--out", str(tmp_path / "split.json"))
    assert result.exit_code == 0
    assert "5 of 20 training images" in result.output
    split = json.loads((tmp_path / "split.json").read_text())
    assert len(split["ids"]) == 5
    assert (split["ratio"], split["seed"]) == (0.25, 2)


def test_a_split_by_count_is_read_and_counted(made: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "split.json")
    result = run("split", str(made), "--count", "3", "--out", path)
    assert "labelled: 3 of 20 training images" in result.output
    shown = run("split", str(made), "--from", path)
    assert shown.exit_code == 0
    assert shown.stdout.split("sha256")[1][:13] == result.stdout.split("sha256")[1][:13]
    document = json.loads(run("split", str(made), "--from", path, "--json").stdout)
    truth = json.loads((made / "annotations" / "instances_train.json").read_text())
    names = {c["id"]: c["name"] for c in truth["categories"]}
    for name, counts in document["classes"].items():
        objects = [a for a in truth["annotations"] if not a["iscrowd"]]
        own = [a["image_id"] for a in objects if names[a["category_id"]] == name]
        labelled = [i for i in own if i in document["ids"]]
        assert list(counts.values()) == [len(labelled), len(set(labelled)), len(own), len(set(own))]
    without = [name for name, counts in document["classes"].items() if not counts["objects"]]
    assert without
    assert (
        f"warning: {counted(len(without), 'class')} without a labelled object: {', '.join(without)}"
        in result.stderr
    )
    best = run("split", str(made), "--count", "8", "--stratify", "--out", str(tmp_path / "best.json"))
    assert "without a labelled object" not in best.output
    assert json.loads((tmp_path / "best.json").read_text())["stratified"] is True


def test_a_validation_part_is_set_apart(made: Path, tmp_path: Path) -> None:
    """One folder of labels without val becomes a data set that opens as it is."""
    folder = shutil.copytree(made, tmp_path / "set")
    (folder / "annotations" / "instances_train.json").rename(folder / "mine.json")
    shutil.rmtree(folder / "val")
    keys = ("data.train=mine.json", "data.train_images=train")
    result = run("split", str(folder), *keys, "--val-share", "0.25", "--out", str(tmp_path / "both"))
    assert result.exit_code == 0, result.exception
    assert "validation: 5 of 20 training images" in result.output
    report = json.loads(run("inspect", str(tmp_path / "both"), "--json").stdout)
    assert {part: counts["images"] for part, counts in report["parts"].items()} == {"train": 15, "val": 5}
    assert report["faults"] == []


def test_convert_replaces_a_data_set_only_when_asked(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("convert", str(made), "--out", str(out), "--images", "symlink", "--to")
    assert run(*words, "yolo").exit_code == 0
    refused = run(*words, "coco").exception
    assert isinstance(refused, UsageError)
    assert "--overwrite" in str(refused.hint)
    assert run(*words, "coco", "--overwrite").exit_code == 0
    assert not (out / "data.yaml").exists()  # nothing of the old one is mixed in
    assert run("inspect", str(out)).exit_code == 0
    assert run("inspect", str(made)).exit_code == 0  # symlinks are removed, not what they mean
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "letter.txt").write_text("mine")
    back = run("convert", str(out), "--to", "yolo", "--out", str(made), "--overwrite").exception
    other = run("convert", str(made), "--to", "yolo", "--out", str(photos), "--overwrite").exception
    assert "would be lost" in str(back)  # the images of `out` are those of `made`
    assert "replaces data sets only" in str(other)
    assert (photos / "letter.txt").read_text() == "mine"


@pytest.mark.parametrize("name", [".git", "thesis", "notes.json"])
def test_convert_never_replaces_what_is_beside_a_data_set(made: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    words = ("convert", str(made), "--out", str(out), "--overwrite", "--to")
    assert run(*words, "yolo").exit_code == 0
    (out / name).mkdir()
    error = run(*words, "coco").exception
    assert isinstance(error, UsageError)
    assert error.where == str(out / name)
    assert (out / "data.yaml").is_file()
    (out / name).rmdir()
    assert run(*words, "coco").exit_code == 0


def test_convert_never_replaces_a_folder_whose_json_is_no_data_set(made: Path, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{}")
    error = run("convert", str(made), "--to", "coco", "--out", str(tmp_path), "--overwrite").exception
    assert isinstance(error, UsageError)
    assert "this folder is none" in str(error)
    assert (tmp_path / "train.json").read_text() == "{}"


@pytest.mark.parametrize("to", data_convert.FORMATS[:5])
def test_what_convert_writes_it_replaces(made: Path, tmp_path: Path, to: str) -> None:
    words = ("convert", str(made), "--out", str(tmp_path), "--overwrite", "--to")
    assert run(*words, to).exit_code == 0
    assert run(*words, "coco").exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["annotations", "train", "val"]


def test_the_hint_names_the_flag_that_was_given(made: Path, tmp_path: Path) -> None:
    error = run("split", str(made), "--from", str(tmp_path / "no.txt")).exception
    assert isinstance(error, DataError)
    assert "--from" in str(error.hint)
    assert "--split" not in str(error.hint)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--ratio", "0.5", "--count", "3"),
        ("--ratio", "0.5", "--entry", "5.0/1"),
        ("--from", "split.json", "--stratify"),
        ("--val-share", "1"),
    ],
)
def test_wrong_use_of_split(made: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    result = run("split", str(made), *words, "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, UsageError)
    assert not (tmp_path / "out").exists()


def test_split_needs_a_place_to_write(made: Path) -> None:
    assert isinstance(run("split", str(made), "--ratio", "0.5").exception, UsageError)


@pytest.mark.parametrize(("ratio", "kind"), [("0", UsageError), ("1.5", UsageError), ("0.001", DataError)])
def test_bad_ratios(made: Path, tmp_path: Path, ratio: str, kind: type) -> None:
    result = run("split", str(made), "--ratio", ratio, "--out", str(tmp_path / "split.json"))
    assert type(result.exception) is kind
    assert not (tmp_path / "split.json").exists()


def test_out_that_is_a_folder(made: Path, tmp_path: Path) -> None:
    assert isinstance(run("split", str(made), "--ratio", "1", "--out", str(tmp_path)).exception, UsageError)


@pytest.mark.parametrize("verb", ["shapes", "inspect", "split"])
def test_help_shows_two_examples(verb: str) -> None:
    assert len(re.findall(rf"gdseg data {verb} ", run(verb, "--help").output)) >= 2


def test_help_does_not_import_torch() -> None:
    program = "import sys, gdseg.cli.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=os.environ, check=False).returncode == 0


def test_a_folder_with_validation_only_is_inspected(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(made, root)
    (root / "annotations" / "instances_train.json").unlink()
    result = run("inspect", str(root))
    assert result.exit_code == 0, result.exception
    assert "note: no labels of train were found" in result.stderr
    chosen = run("inspect", str(root), "data.train=none", "--json")
    assert list(json.loads(chosen.stdout)["parts"]) == ["val"]
    assert "no labels of train" not in chosen.stderr
    refused = run("inspect", str(root / "val")).exception
    assert isinstance(refused, DataError)
    assert "images but no labels" in refused.what
    mended = run("inspect", str(root), "--fix", str(tmp_path / "copy"))
    assert "nothing to mend" in mended.stdout
    document = json.loads((root / "annotations" / "instances_val.json").read_text())
    document["annotations"][0]["category_id"] = 99
    (root / "annotations" / "instances_val.json").write_text(json.dumps(document))
    mended = run("inspect", str(root), "--fix", str(tmp_path / "copy"))
    assert mended.exit_code == 0, mended.exception
    assert "4 images of val" in mended.stdout

"""Wrong input, through the command line itself: one clear message, the right exit code, no traces."""

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch

from gdseg.cli.app import main

FAST = [
    "backbone.name=mobilenetv3_small_050", "backbone.weights=null", "pixel_decoder.channels=32", "pixel_decoder.layers=1",
    "decoder.channels=32", "decoder.layers=1", "decoder.queries=5", "loss.points=16", "train.batch_size=2", "train.steps=1",
    "augment.canvas=[64, 64]", "augment.test_shortest=64", "augment.test_longest=64", "data.workers=0",
]  # fmt: skip


@pytest.fixture
def gdseg(monkeypatch, capsys, tmp_path):
    """Run `gdseg ARGS` in an empty folder; returns (exit code, what it said)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gdseg", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as left:
            code = left.code or 0
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, " ".join((said.out + said.err).split())

    return run


@pytest.fixture
def data(tiny_data, tmp_path):
    """A copy of the tiny data set that a test may spoil."""
    shutil.copytree(tiny_data, tmp_path / "data")
    return tmp_path / "data"


def spoil(data, change, part="train"):
    """Apply `change` to the annotation document of a part."""
    file = data / "annotations" / f"instances_{part}.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pretrain", "train.stepz=3"], 2, "unknown key 'train.stepz', did you mean 'train.steps'?"),
        (["pretrain", "train.steps=many"], 2, "must be a whole number"),
        (["pretrain", "-r", "shapes_maskdin"], 2, "did you mean 'shapes_maskdino'?"),
        (["pretrain", "--ratio", "0"], 2, "must be above 0"),
        (["pretrain", "--ratio", "1.5"], 2, "must be at most 1.0"),
        (["pretrain", "--steps", "5", "train.steps=6"], 2, "both as a flag and as an override"),
        (["pretrain", "--data", "nowhere"], 3, "no such data set"),
        (["pretrain", "data.train=none"], 3, "there are no training images"),
        (
            ["data", "split", "shapes", "data.train=none", "--ratio", "0.5", "--out", "s.json"],
            3,
            "no training images",
        ),
        (["pretrain", "--device", "cuda:99"], 5, "there is no device"),
        (["pretrain", "--resume"], 4, "'gdseg pretrain' makes one"),
        (["pretrain", "--stepz", "5"], 2, "No such option"),
        (["distill"], 4, "'gdseg pretrain' makes one"),
        (["distill", "--teacher", "nothing.safetensors"], 4, "no such checkpoint"),
        (["eval"], 4, "'gdseg pretrain' makes one"),
        (["predict", "nowhere.jpg"], 3, "no such file or folder"),
        (["predict", __file__], 4, "'gdseg pretrain' makes one"),
        (["recipe", "show", "coco"], 2, "no such recipe"),
        (["recipe", "show", "coco"], 2, "'gdseg recipe list coco' shows the names"),
        (["pretrain", "-r", "nucle"], 2, "did you mean 'nuclei_maskdino'?"),
        (["recipe", "check", "nofile.yaml"], 2, "no such file"),
        (["bench", "everything"], 2, "nothing called 'everything'"),
    ],
)
def test_a_wrong_word(gdseg, arguments, code, words):
    assert gdseg(*arguments)[0] == code
    assert words in gdseg(*arguments)[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("annotations"), "COCO"),
        (lambda d: d["annotations"][0].update(category_id=99), "99"),
        (lambda d: d["annotations"][0]["segmentation"].update(counts="zzzz"), "RLE"),
        (lambda d: d["annotations"][0].update(segmentation=[[900, 900, 950, 900, 950, 950]]), "outside"),
        (lambda d: d["images"][0].update(file_name="gone.png"), "gone.png"),
    ],
)
def test_faulty_annotations_are_refused_before_any_training(gdseg, data, change, words):
    spoil(data, change)
    code, said = gdseg("pretrain", "--data", data, "--out", "run", *FAST)
    assert code == 3
    assert words in said
    assert "gdseg data inspect" in said or "COCO" in said


def test_labels_that_hold_nothing_are_not_trained_on(gdseg, data):
    spoil(data, lambda d: d.update(annotations=[]))
    for more in ([], ["--dry-run"]):
        code, said = gdseg("pretrain", "--data", data, "--ratio", "1", "--out", "run", *FAST, *more)
        assert (code, "no object in any labelled image" in said, "--conf LOWER" in said) == (3, True, True)
    assert not (data.parent / "run").exists()


def test_a_ratio_that_leaves_no_image(gdseg, data):
    code, said = gdseg("pretrain", "--data", data, "--ratio", "0.01", *FAST)
    assert (code, "leaves none" in said) == (3, True)


def test_a_corrupt_image_is_named(gdseg, data):
    for image in (data / "train").iterdir():
        image.write_bytes(b"not an image")
    code, said = gdseg("pretrain", "--data", data, "--ratio", "1", *FAST)
    assert code == 3
    assert ".png" in said


def test_a_folder_with_something_in_it_is_refused(gdseg, data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    code, said = gdseg("pretrain", "--data", data, "--out", "run", *FAST)
    assert (code, "not empty" in said) == (2, True)
    code, said = gdseg("pretrain", "--data", data, "--out", "run", "--overwrite", *FAST)
    assert (code, "replaces runs only" in said) == (2, True)
    assert (tmp_path / "run" / "notes.txt").exists()


def test_overwrite_never_deletes_what_is_no_run(gdseg, data, tmp_path):
    shutil.copytree(data, tmp_path / "work")
    (tmp_path / "work" / "recipe.yaml").write_text("task: instance")
    for out in ("work", "."):
        code, said = gdseg("pretrain", "--data", data, "--out", out, "--overwrite", *FAST)
        assert (code, "replaces runs only" in said) == (2, True)
    assert (tmp_path / "work" / "train").is_dir()


def test_overwrite_never_deletes_the_teacher(gdseg, data):
    assert gdseg("pretrain", "--data", data, "--ratio", "0.5", "--out", "T", "-q", *FAST)[0] == 0
    code, said = gdseg("distill", "--teacher", "T", "--out", "T", "--overwrite")
    assert (code, "would delete the teacher" in said) == (2, True)


def test_a_split_replaces_the_recipes_ratio(gdseg, data, tmp_path):
    (tmp_path / "ids.txt").write_text("1\n2\n")
    assert (
        "labelled 2 images" in gdseg("pretrain", "--data", data, "--split", "ids.txt", "--dry-run", *FAST)[1]
    )


def test_resume_takes_no_other_recipe(gdseg, data, tmp_path):
    assert gdseg("pretrain", "--data", data, "--out", "T", "-q", *FAST)[0] == 0
    for words in (["train.lr=1"], ["--seed", "3"], ["-r", "custom"], ["--ratio", "0.2"]):
        code, said = gdseg("pretrain", "--resume", "--out", "T", *words)
        assert (code, "own recipe" in said) == (2, True)


def test_words_of_overrides_are_no_yaml(gdseg, data, tmp_path):
    shutil.copytree(data, tmp_path / "set #2, [new]")
    assert "12 train" in gdseg("pretrain", "data.root=set #2, [new]", "--dry-run", *FAST)[1]


def test_a_pickle_is_never_loaded(gdseg, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("hacked").touch, ())

    (tmp_path / "model.pth").write_bytes(pickle.dumps(Bomb()))
    code, said = gdseg("eval", "model.pth")
    assert (code, "not a safetensors file" in said) == (4, True)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": 1, "b": [1, 2]}, "holds no weights: there is no tensor in it"),
        ([1], "holds no weights: it is no dictionary"),
        ({"model": {"x.weight": torch.zeros(3)}}, "a family that gdseg does not know"),
        (Path("x"), "refused: the pickle wants to import pathlib"),
    ],
)
def test_a_file_that_is_no_network_is_told_in_our_words(gdseg, tmp_path, content, words):
    torch.save(content, tmp_path / "odd.pth")
    for arguments, said_of in (
        (["convert", "odd.pth", "--out", "o.safetensors"], words),
        (["eval", "odd.pth"], "not a safetensors file, as networks of gdseg are"),
        (["predict", "odd.pth", "x.png"], "a checkpoint of another format, not an image"),
    ):
        code, said = gdseg(*arguments)
        assert (code, said_of in said) == (4, True)
        assert "odd.pth" in said
        assert "try:" in said
        assert "header" not in said
        assert "weights_only" not in said


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["pretrain", "foo"], 2, "try: a recipe is named with -r"),
        (["pretrain", "my"], 2, "try: did you mean --data my?"),
        (["pretrain", "data.ratio"], 2, "try: give it a value, as data.ratio=.."),
        (["pretrain", "train.steps=many"], 2, "lists every key, with its values"),
        (["recipe", "check", "custom", "postprocess.boxes=head", "decoder.kind=mask2former"], 2, "change one of the keys"),
        (["budget", "--seeds", "a"], 2, "whole numbers, as 0,1,2, each once"),
        (["budget", "--ratios", "0.1,0.1"], 2, "as 0.02,0.1,0.5, each once"),
        (["data", "inspect", "my/notcoco.json"], 3, "name its folder, and the file by a key"),
        (["eval", "--pred", "my/notcoco.json", "--data", "my/notcoco.json"], 3, "expected a json object with the lists"),
    ],
)  # fmt: skip
def test_the_hint_fits_the_fault(gdseg, tmp_path, arguments, code, hint):
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "notcoco.json").write_text('{"a": 1}')
    found, said = gdseg(*arguments)
    assert (found, hint in said) == (code, True)


def test_the_whole_chain_and_what_does_not_fit_it(gdseg, data, tmp_path):
    """pretrain, distill, eval, predict with no word repeated; then a checkpoint on the wrong data."""
    assert gdseg("pretrain", "--data", data, "--ratio", "0.5", "-q", *FAST)[0] == 0
    assert gdseg("distill", "--ratio", "0.5", "--steps", "2", "-q", "distill.burn_in_steps=1")[0] == 0
    names = {path.name.rstrip("-0123456789") for path in (tmp_path / "runs").iterdir()}
    assert names == {"pretrain-shapes_maskdino", "distill-shapes_maskdino"}  # the teacher's recipe
    assert gdseg("eval")[0] == 0
    assert gdseg("predict", data / "val")[0] == 0
    assert "the run is finished" in gdseg("distill", "--resume")[1]

    def rename(document):
        document["categories"][0]["name"] = "dot"

    for part in ("train", "val"):
        spoil(data, rename, part)
    code, said = gdseg("eval", "--data", data)
    assert (code, "only in the data: dot" in said) == (4, True)
    network = next(tmp_path.glob("runs/pretrain*/checkpoints/best.safetensors"))
    code, said = gdseg("distill", "--teacher", network)
    assert (code, "dot" in said) == (4, True)


def test_dry_run_writes_nothing(gdseg, data, tmp_path):
    code, said = gdseg("pretrain", "--data", data, "--dry-run", *FAST)
    assert code == 0
    assert "12 train, 4 val" in said
    assert not (tmp_path / "runs").exists()


def test_a_bug_is_called_one(gdseg, monkeypatch):
    def broken(*_):
        raise KeyError("x")

    monkeypatch.setattr("gdseg.doctor.examine", broken)
    code, said = gdseg("doctor")
    assert code == 1
    assert "please report" in said


def test_help_comes_without_torch():
    import subprocess

    script = "import sys; import gdseg.cli.app; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_backbone_that_timm_lacks_is_found_by_recipe_check(gdseg):
    code, said = gdseg("recipe", "check", "custom", "backbone.name=resnet5")
    assert (code, "timm has no network 'resnet5'" in said, "resnet50" in said) == (2, True, True)
    code, said = gdseg("recipe", "check", "shapes_maskdino")
    assert (code, "shapes_maskdino: good" in said) == (0, True)

"""What the README tells people to type exists: every gdseg command parses, every make target and recipe is there, data commands run."""

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from gdseg.cli.app import app
from gdseg.data.cityscapes import CLASSES as CITYSCAPES
from gdseg.recipe_table import official_recipes
from gdseg.recipe_yaml import load_recipe, shipped_files

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
INLINE = re.findall(r"`(gdseg [a-z][^`]*)`", README)
COMMANDS = sorted({c.strip() for c in [*LINES, *INLINE] if c.startswith("gdseg ")})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_gdseg_command_parses(command):
    """Parsed to the last option by the real command line, without being run."""
    node, words, context = typer.main.get_command(app), shlex.split(command)[1:], None
    while words and hasattr(node, "commands"):
        context = node.make_context(node.name, [], parent=context, resilient_parsing=True)
        assert words[0] in node.commands, command
        node = node.commands[words.pop(0)]
    node.make_context(node.name, words, parent=context)


TRAINING = [c for c in COMMANDS if c.startswith(("gdseg pretrain", "gdseg budget")) and " .. " not in c]


@pytest.mark.parametrize("command", TRAINING)
def test_every_recipe_that_is_trained_is_a_sound_one(command):
    """The recipe that is named, with the keys of the line and of each of its variants."""
    words = shlex.split(command)[2:]
    named = words[words.index("-r") + 1] if "-r" in words else "shapes_maskdino"
    variants = [words[i + 1].split(":", 1)[1].split() for i, w in enumerate(words) if w == "--variant"]
    keys = [w for w in words if re.fullmatch(r"[a-z_.]+=\S+", w)]
    for own in variants or [[]]:
        load_recipe("custom" if named == "my.yaml" else named, [*keys, *own])  # of which it is a copy


def run(command: str) -> Result:
    """A README line as it stands, in the working folder."""
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, (command, result.output, result.exception)
    return result


def test_the_data_commands_run_as_written(tmp_path, monkeypatch):
    """On one folder of images with photos/labels.json, as the text has it; each D is what a line before made."""
    monkeypatch.chdir(tmp_path)
    run("gdseg data shapes --out photos --train 130 --val 1 --size 48")
    (tmp_path / "photos/annotations/instances_train.json").rename(tmp_path / "photos/labels.json")
    (tmp_path / "photos/train").rename(tmp_path / "photos/images")
    commands = [c for c in LINES if re.search(r"^gdseg data \w+ (D|photos/) ", c)]
    assert [c.split()[2] for c in commands] == ["split", "inspect", "split", "split", "convert"]
    outputs = []
    for command in commands:
        if "others.txt" in command:
            names = sorted(path.name for path in (tmp_path / "D/train").iterdir())
            (tmp_path / "others.txt").write_text("\n".join(names[:7]))
        outputs.append(run(command).output)
    assert "validation: 26 of 130" in outputs[0]
    assert "nothing to mend" in outputs[1]
    assert "labelled: 100 of 104" in outputs[2]
    assert "labelled: 7 of 104" in outputs[3]
    assert (tmp_path / "samples.jpg").is_file()
    assert len(list((tmp_path / "D-yolo").glob("images/*/*.png"))) == 130


def test_folders_of_other_layouts_are_inspected_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("gdseg data shapes --out my_data --train 4 --val 2 --size 48")
    run("gdseg data shapes --out scenes --train 4 --val 2 --size 48 --task panoptic")
    names = {thing: [c.name for c in CITYSCAPES if c.is_thing == thing] for thing in (False, True)}
    for path in (tmp_path / "scenes/annotations").glob("*.json"):
        document = json.loads(path.read_text())
        for thing, own in names.items():
            categories = [c for c in document["categories"] if c["isthing"] == thing]
            for category, name in zip(categories, own, strict=False):
                category["name"] = name
        path.write_text(json.dumps(document))
    run("gdseg data convert scenes --to cityscapes --out cityscapes")
    commands = [c for c in LINES if re.search(r"^gdseg data inspect (my_data|cityscapes/)$", c)]
    assert len(commands) == 2
    for command in commands:
        assert "faults: none" in run(command).output


def test_every_make_target_exists():
    rules = (ROOT / "Makefile").read_text() + (ROOT / "kernels/kernels.mk").read_text()
    targets = re.findall(r"^([a-z]+):", rules, re.MULTILINE)
    for line in LINES + re.findall(r"`(make [a-z]+)`", README):
        if line.startswith("make "):
            assert line.split()[1] in targets


def test_every_shipped_recipe_is_listed_and_no_other():
    files, official = (README.split(f"| {head} |")[1].split("\n\n")[0] for head in ("recipe", "recipes"))
    assert set(re.findall(r"`([a-z0-9_]+)`", files.split("|---|---|---|")[1])) == set(shipped_files())
    rows = [
        [re.findall(r"`([a-z0-9_]+)`", cell) for cell in row.split("|")[1:3]]
        for row in official.splitlines()[2:]
    ]
    listed = [start + end for starts, ends in rows for start in starts for end in ends]
    assert sorted(listed) == sorted(official_recipes())


def test_every_file_it_names_exists():
    for path in re.findall(r"[`(]((?:gdseg|tests|recipes|\.github)/[\w./]+\.(?:py|yaml|png))[`)]", README):
        assert (ROOT / path).is_file(), path
    assert not re.search(r"@[A-Z][A-Z0-9_]*@", README), "a figure was not filled in"

"""What the README tells people to type exists: every gdseg command parses, every make target and recipe is there."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from gdseg.cli.app import app
from gdseg.recipe_table import official_recipes
from gdseg.recipe_yaml import shipped_files

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
    assert not re.search(r"@[A-Z_]+@", README), "a figure was not filled in"

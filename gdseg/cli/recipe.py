"""`gdseg recipe list | show | copy | check`. All but `check` answer without torch."""

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import typer

from gdseg.cli import options as o
from gdseg.cli.console import print_json
from gdseg.errors import UsageError
from gdseg.files import write_atomic
from gdseg.recipe_table import official_recipes
from gdseg.recipe_yaml import dump_recipe, key_paths, load_recipe, recipe_text, shipped_files

recipe_app = typer.Typer(help="The shipped recipes: list, show, copy, check.", no_args_is_help=True)

NameArg = Annotated[str, typer.Argument(help="A name of `gdseg recipe list` or a YAML file.")]


@recipe_app.command("list")
def list_(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="Only recipes with all of these words: ade20k, panoptic swinl, an official name."
        ),
    ] = None,
    as_json: o.JsonOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """The shipped recipes: the built-in data set and your own, then the official configurations by task."""
    rows = [row for row in _rows() if all(_about(row, word.lower()) for word in words or [])]
    if as_json:
        print_json({row.pop("name"): row for row in rows})
        return
    if not rows:
        raise UsageError(f"no recipe has {' and '.join(words or [])}", hint="'gdseg recipe list' shows all")
    width = max(len(row["name"]) for row in rows)
    for group, members in groupby(rows, key=itemgetter("group")):
        print(group)
        for row in members:
            print(f"  {row['name']:{width}}  {row['about']}")


def _rows() -> Iterator[dict[str, Any]]:
    """name, group, about and official names of each shipped recipe."""
    for name in shipped_files():
        about = recipe_text(name).splitlines()[0].lstrip("# ")
        yield {"name": name, "group": "Built-in data set, your own data", "about": about, "official": []}
    for name, entry in official_recipes().items():
        about = f"{entry.about}{': ' if entry.result else ''}{entry.result}"
        yield {"name": name, "group": entry.group, "about": about, "official": list(entry.official)}


def _about(row: dict[str, Any], word: str) -> bool:
    """Whether a word is part of what is printed of a recipe, or an official name of it."""
    official = [name.lower() for name in row["official"]]
    printed = f"{row['name']} {row['group']} {row['about']}".lower()
    return word in printed or word in official or word in [name.partition("/")[2] for name in official]


@recipe_app.command()
def show(
    name: NameArg,
    overrides: o.OverridesArg = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Every key with its value, not the file.")
    ] = False,
    keys: Annotated[bool, typer.Option("--keys", help="Every key with what it means.")] = False,
    debug: o.DebugOpt = False,
) -> None:
    """Print a recipe: as it is written, or with overrides and defaults filled in."""
    recipe = load_recipe(name, overrides)
    if keys:
        for path, field in key_paths():
            print(f"{path:34} {field.metadata['doc']}")
    elif resolved or overrides:
        print(dump_recipe(recipe), end="")
    else:
        print(recipe_text(name), end="")


@recipe_app.command()
def copy(
    name: NameArg,
    to: Annotated[Path, typer.Argument(help="The new file.")],
    overwrite: o.OverwriteOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """Copy a recipe to a file of your own."""
    text = recipe_text(name)
    to = to / f"{name}.yaml" if to.is_dir() else to
    if to.exists() and not overwrite:
        raise UsageError("the file exists", to, "use --overwrite to replace it")
    write_atomic(to, text)
    print(f"copied to {to}; use it with: gdseg pretrain -r {to}")


@recipe_app.command()
def check(name: NameArg, overrides: o.OverridesArg = None, debug: o.DebugOpt = False) -> None:
    """Say whether a recipe can be used; every fault at once, exit code 2 if there is one."""
    recipe = load_recipe(name, overrides)
    import torch

    from gdseg.models.model import build_model
    from gdseg.train.counts import settle

    settled = settle(recipe)  # without data: the least that auto means
    with torch.device("meta"):  # shapes alone, no memory
        model = build_model(settled, num_classes=1, load_weights=False)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{name}: good; {parameters / 1e6:.1f} million parameters")

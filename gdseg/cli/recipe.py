"""`gdseg recipe list | show | copy | check`. All but `check` answer without torch."""

from pathlib import Path
from typing import Annotated

import typer

from gdseg.cli import options as o
from gdseg.cli.console import print_json
from gdseg.errors import UsageError
from gdseg.files import write_atomic
from gdseg.recipe_yaml import dump_recipe, find_recipe, key_paths, load_recipe, shipped_recipes

recipe_app = typer.Typer(help="The shipped recipes: list, show, copy, check.", no_args_is_help=True)

NameArg = Annotated[str, typer.Argument(help="A name of `gdseg recipe list` or a YAML file.")]


@recipe_app.command("list")
def list_(as_json: o.JsonOpt = False, debug: o.DebugOpt = False) -> None:
    """Names of the shipped recipes and their first line."""
    lines = {
        name: find_recipe(name).read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        for name in shipped_recipes()
    }
    if as_json:
        print_json(lines)
        return
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"{name:{width}}  {line}")


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
        print(find_recipe(name).read_text(encoding="utf-8"), end="")


@recipe_app.command()
def copy(
    name: NameArg,
    to: Annotated[Path, typer.Argument(help="The new file.")],
    overwrite: o.OverwriteOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """Copy a recipe to a file of your own."""
    text = find_recipe(name).read_text(encoding="utf-8")
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

    with torch.device("meta"):  # shapes alone, no memory
        model = build_model(recipe, num_classes=1, load_weights=False)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{name}: good; {parameters / 1e6:.1f} million parameters")

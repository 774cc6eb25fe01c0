"""`gdseg bench`: print what `gdseg.bench.bench` measures."""

from typing import Annotated

import typer

from gdseg.cli import options as o
from gdseg.cli.console import print_json, print_table
from gdseg.cli.run_options import recipe_changes
from gdseg.errors import UsageError
from gdseg.recipe_yaml import DEFAULT_RECIPE, load_recipe

EXAMPLES = """Examples:

  gdseg bench op

  gdseg bench train -r coco_instance_maskdino_r50 --data shapes --device cuda
"""


def command(
    context: typer.Context,
    part: Annotated[str, typer.Argument(help="op, model, train, data or all.")] = "all",
    overrides: o.OverridesArg = None,
    recipe: o.RecipeOpt = None,
    data: o.DataOpt = None,
    repeats: Annotated[int, typer.Option(help="Calls timed; the median counts.", min=1)] = 5,
    device: o.DeviceOpt = "auto",
    as_json: o.JsonOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """Time the operator, the model, a training step and the loader on this machine."""
    resolved = load_recipe(recipe or DEFAULT_RECIPE, recipe_changes(context.params))

    from gdseg.bench import PARTS, bench
    from gdseg.device import resolve_device

    if part not in (*PARTS, "all"):
        raise UsageError(f"there is nothing called '{part}' to time", hint=f"one of {', '.join(PARTS)}, all")
    chosen = resolve_device(device)
    rows = {p: bench(p, resolved, chosen, repeats) for p in (PARTS if part == "all" else [part])}
    if as_json:
        print_json({p: dict(times) for p, times in rows.items()})
        return
    table = [
        [p, what, f"{1000 * s:.1f} ms", f"{s / times[0][1]:.2f}"]
        for p, times in rows.items()
        for what, s in times
    ]
    print_table(f"gdseg bench on {chosen}", ["part", "what", "median", "ratio to the first"], table)

"""`gdseg pretrain`: parse, call `train.pretrain.pretrain`, print."""

from pathlib import Path
from typing import Annotated

import typer

from gdseg.cli import options as o
from gdseg.cli.console import print_json
from gdseg.cli.run_options import flag_overrides, resumed_run
from gdseg.recipe_yaml import DEFAULT_RECIPE, load_recipe
from gdseg.runs import new_run, prepare_run

EXAMPLES = """Examples:

  gdseg pretrain                                         the built-in data set

  gdseg pretrain -r custom --data my_data --ratio 0.1    your own images

  gdseg pretrain --resume                                go on with the last run
"""


def command(
    overrides: o.OverridesArg = None,
    recipe: o.RecipeOpt = None,
    data: o.DataOpt = None,
    ratio: o.RatioOpt = None,
    split: o.SplitOpt = None,
    steps: o.StepsOpt = None,
    batch_size: o.BatchSizeOpt = None,
    seed: o.SeedOpt = None,
    precision: o.PrecisionOpt = None,
    device: o.DeviceOpt = "auto",
    out: o.OutOpt = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run.", rich_help_panel=o.OUTPUT)
    ] = False,
    overwrite: o.OverwriteOpt = False,
    dry_run: o.DryRunOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """Train the teacher on the labelled images."""
    flags = {
        "data.root": data,
        "data.ratio": ratio,
        "data.split": split,
        "train.steps": steps,
        "train.batch_size": batch_size,
        "train.precision": precision,
        "seed": seed,
    }
    changes = flag_overrides(flags, overrides or [])
    if resume:
        run = resumed_run("pretrain", recipe, out)
        resolved = load_recipe(str(run / "recipe.yaml"), changes)
    else:
        name = recipe or DEFAULT_RECIPE
        resolved = load_recipe(name, changes)
        run = new_run("pretrain", Path(name).stem, out, overwrite=overwrite)

    from gdseg.device import resolve_device
    from gdseg.train.plan import describe
    from gdseg.train.pretrain import pretrain

    chosen = resolve_device(device)
    if dry_run:
        print(describe(resolved, run, chosen, "pretrain"))
        return
    prepare_run(run, overwrite=overwrite and not resume)
    scores = pretrain(resolved, run, chosen, resume=resume, quiet=quiet or as_json)
    if as_json:
        print_json({"run": str(run), **scores})
    elif not quiet:
        print(f"teacher saved in {run}; next: gdseg distill")

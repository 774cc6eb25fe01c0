"""`gdseg pretrain`: parse, call `train.pretrain.pretrain`, print."""

from pathlib import Path

import typer

from gdseg.cli import options as o
from gdseg.cli.run_options import execute, recipe_changes, resumed_run
from gdseg.recipe_yaml import DEFAULT_RECIPE, load_recipe
from gdseg.runs import new_run

EXAMPLES = """Examples:

  gdseg pretrain                                         the built-in data set

  gdseg pretrain -r custom --data my_data --ratio 0.1    your own images

  gdseg pretrain --resume                                go on with the last run
"""


def command(
    context: typer.Context,
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
    resume: o.ResumeOpt = False,
    overwrite: o.OverwriteOpt = False,
    dry_run: o.DryRunOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """Train the teacher on the labelled images."""
    changes = recipe_changes(context.params, steps="train.steps")
    if resume:
        run = resumed_run("pretrain", context.params, changes)
        resolved = load_recipe(str(run / "recipe.yaml"), changes)
    else:
        name = recipe or DEFAULT_RECIPE
        resolved = load_recipe(name, changes)
        run = new_run("pretrain", Path(name).stem, out, overwrite=overwrite)

    from gdseg.train.pretrain import pretrain

    execute("pretrain", resolved, run, context.params, pretrain, "gdseg distill")

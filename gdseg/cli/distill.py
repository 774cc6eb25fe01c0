"""`gdseg distill`: parse, call `train.distill.distill`, print."""

from pathlib import Path
from typing import Annotated

import typer

from gdseg.cli import options as o
from gdseg.cli.console import print_json
from gdseg.cli.run_options import flag_overrides, resumed_run
from gdseg.recipe_yaml import load_recipe, parse_recipe
from gdseg.runs import find_checkpoint, new_run, prepare_run, teacher_of

EXAMPLES = """Examples:

  gdseg distill --ratio 0.1                                  from the last pretrained teacher

  gdseg distill --teacher runs/T --unlabelled more_images    images without labels

  gdseg distill --resume                                     go on with the last run
"""


def command(
    overrides: o.OverridesArg = None,
    recipe: o.RecipeOpt = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            help="Teacher: a .safetensors file or a run; the last pretrained one.",
            rich_help_panel=o.TRAINING,
        ),
    ] = None,
    data: o.DataOpt = None,
    unlabelled: Annotated[
        list[str] | None,
        typer.Option(
            "--unlabelled", help="Folder of unlabelled images; may be given again.", rich_help_panel=o.DATA
        ),
    ] = None,
    unlabeled: Annotated[list[str] | None, typer.Option("--unlabeled", hidden=True)] = None,
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
    """Distil a student from the teacher, with labelled and unlabelled images."""
    flags = {
        "data.root": data,
        "data.unlabelled": [*(unlabelled or []), *(unlabeled or [])] or None,
        "data.ratio": ratio,
        "data.split": split,
        "distill.steps": steps,
        "train.batch_size": batch_size,
        "train.precision": precision,
        "seed": seed,
    }
    changes = flag_overrides(flags, overrides or [])
    from gdseg.models.checkpoint import read_metadata

    if resume:
        run = resumed_run("distill", recipe, out)
        resolved, guide = load_recipe(str(run / "recipe.yaml"), changes), teacher_of(run)
    else:
        guide = find_checkpoint(teacher, role="teacher", verb="pretrain")
        # without --recipe, the teacher's own: architecture, data and split stay the same
        resolved = (
            load_recipe(recipe, changes)
            if recipe
            else parse_recipe(read_metadata(guide)["recipe"], str(guide), changes)
        )
        run = new_run("distill", Path(recipe or resolved.decoder.kind).stem, out, overwrite=overwrite)

    from gdseg.device import resolve_device
    from gdseg.train.distill import distill
    from gdseg.train.plan import describe

    chosen = resolve_device(device)
    if dry_run:
        print(describe(resolved, run, chosen, "distill"))
        return
    prepare_run(run, overwrite=overwrite and not resume)
    scores = distill(resolved, run, guide, chosen, resume=resume, quiet=quiet or as_json)
    if as_json:
        print_json({"run": str(run), **scores})
    elif not quiet:
        print(f"student saved in {run}; next: gdseg eval")

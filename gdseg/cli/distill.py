"""`gdseg distill`: parse, call `train.distill.distill`, print."""

from functools import partial
from pathlib import Path

import typer

from gdseg.cli import options as o
from gdseg.cli.run_options import execute, recipe_changes, resumed_run, say_last
from gdseg.errors import UsageError
from gdseg.recipe import Recipe
from gdseg.recipe_yaml import apply_overrides, load_recipe, parse_recipe
from gdseg.runs import find_checkpoint, new_run, recipe_name, run_of

EXAMPLES = """Examples:

  gdseg distill --ratio 0.1                                  from the last pretrained teacher

  gdseg distill --teacher runs/T --unlabelled more_images    images without labels

  gdseg distill --resume                                     go on with the last run
"""


def command(
    context: typer.Context,
    overrides: o.OverridesArg = None,
    recipe: o.RecipeOpt = None,
    teacher: o.TeacherOpt = None,
    data: o.DataOpt = None,
    unlabelled: o.UnlabelledOpt = None,
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
    """Distil a student from the teacher, with labelled and unlabelled images."""
    changes = recipe_changes(context.params, steps="distill.steps")
    if resume:
        run = resumed_run("distill", context.params, changes)
        resolved, guide = load_recipe(str(run / "recipe.yaml"), changes), None
    else:
        guide = find_checkpoint(teacher, role="teacher", verb="pretrain")
        if teacher is None:
            say_last(guide, quiet=quiet)
        home = run_of(guide)
        resolved = load_recipe(recipe, changes) if recipe else _recipe_of(guide, changes)
        if home and not _names_labelled(changes, resolved if recipe else None):
            resolved = _on_split(resolved, home / "split.json")
        own_name = recipe_name(home) if home else None
        name = (
            Path(recipe).stem if recipe else own_name or f"{resolved.decoder.kind}_{resolved.backbone.name}"
        )
        run = new_run("distill", name, out, overwrite=overwrite)
        if overwrite and guide.resolve().is_relative_to(run.resolve()):
            raise UsageError("--overwrite would delete the teacher", run, "name another --out")

    from gdseg.train.distill import distill

    job = partial(distill, teacher_file=guide)
    execute("distill", resolved, run, context.params, job, "gdseg eval", guide)


def _names_labelled(changes: list[str], own: Recipe | None) -> bool:
    """Whether flags, overrides or a recipe of its own say which images are labelled."""
    named = {"data.split", "data.ratio", "data.root", "data.train"}
    return bool(own and own.data.split) or any(item.partition("=")[0] in named for item in changes)


def _on_split(recipe: Recipe, teachers: Path) -> Recipe:
    """The recipe with the teacher's labelled images, if its run has noted them."""
    if not teachers.is_file():
        return recipe
    return apply_overrides(recipe, [f"data.split={teachers}", "data.ratio=1.0"])


def _recipe_of(guide: Path, changes: list[str]) -> Recipe:
    """The teacher's own recipe: architecture, data and split stay the same without a word."""
    from gdseg.models.checkpoint import read_metadata

    return parse_recipe(read_metadata(guide).get("recipe", ""), str(guide), changes)

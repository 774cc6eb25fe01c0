"""`gdseg budget`: parse, call `train.budget`, print the table and draw the curve."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gdseg.cli import options as o
from gdseg.cli.console import err, print_json, print_table
from gdseg.cli.run_options import recipe_changes
from gdseg.errors import UsageError
from gdseg.eval.tables import percent
from gdseg.lock import hold
from gdseg.recipe import Recipe
from gdseg.recipe_yaml import DEFAULT_RECIPE, apply_overrides, load_recipe
from gdseg.runs import RUNS
from gdseg.words import ARMS, counted

if TYPE_CHECKING:
    from gdseg.train.budget import Result
    from gdseg.train.budget_plan import Job, Plan

EXAMPLES = """Examples:

  gdseg budget --ratios 0.02,0.1,0.5 --seeds 0,1,2              the built-in data set: table and curve

  gdseg budget -r nuclei_maskdino --data nuclei --seeds 0,1,2   the recipe's own ratio

  gdseg budget --variant "soft: distill.weighting=score" --variant "no burn-in: distill.burn_in_steps=0"

The gap is all labels minus labels alone (minus the teacher); told is what share of it the student closes.
"""
BASE = "recipe"
GAINS = {  # what the second table tells, and the arms it needs
    "gain": ("over labels alone", {"labels", "student"}),
    "gap_from_teacher": ("gap from teacher", {"student", "all"}),
    "gap_from_labels": ("gap from labels", {"labels", "student", "all"}),
}
_T = TypeVar("_T")

RatiosOpt = Annotated[
    str | None,
    typer.Option(
        "--ratios",
        metavar="R,R,..",
        help="Shares of labelled images (default: the recipe's).",
        rich_help_panel=o.DATA,
    ),
]
SeedsOpt = Annotated[
    str,
    typer.Option(
        "--seeds", metavar="S,S,..", help="Each draws its own labelled images.", rich_help_panel=o.TRAINING
    ),
]
VariantOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--variant",
        metavar="'NAME: KEY=VALUE ..'",
        help="The recipe with other keys, beside the recipe itself; may be given again.",
        rich_help_panel=o.TRAINING,
    ),
]
KindsOpt = Annotated[
    str,
    typer.Option(
        "--arms", metavar="A,A,..", help="What to train: labels (alone), teacher, student, all (labels)."
    ),
]
JobsOpt = Annotated[
    int,
    typer.Option(
        "--jobs",
        min=1,
        help="Runs at a time, each with its share of the threads (OMP_NUM_THREADS holds).",
        rich_help_panel=o.ADVANCED,
    ),
]
ConfOpt = Annotated[
    float,
    typer.Option("--conf", help="Scores shown in the overlays.", min=0.0, max=1.0, rich_help_panel=o.OUTPUT),
]


def command(
    context: typer.Context,
    overrides: o.OverridesArg = None,
    recipe: o.RecipeOpt = None,
    data: o.DataOpt = None,
    unlabelled: o.UnlabelledOpt = None,
    ratios: RatiosOpt = None,
    seeds: SeedsOpt = "0",
    variant: VariantOpt = None,
    arms: KindsOpt = "labels,teacher,student,all",
    batch_size: o.BatchSizeOpt = None,
    precision: o.PrecisionOpt = None,
    jobs: JobsOpt = 1,
    device: o.DeviceOpt = "auto",
    conf: ConfOpt = 0.4,
    out: o.OutOpt = None,
    dry_run: o.DryRunOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """Compare labels alone, teacher, student and all labels at several ratios and seeds.

    Labels alone and all labels take as many steps as teacher and student together. A run
    that is finished is not run again, one that was interrupted goes on: give the same
    command again. Runs are shared by all commands with the same --out, one at a time.
    """
    name = recipe or DEFAULT_RECIPE
    own = read_variants(variant or [])
    base = load_recipe(name, recipe_changes(context.params))
    shares = _numbers("--ratios", ratios, float) if ratios else [_own_ratio(base)]
    _refuse_replaced(overrides or [], own, by_ratios=bool(ratios), by_split=shares == [None])
    kinds = _kinds(arms)
    target = out or RUNS / f"budget-{Path(name).stem}"

    from gdseg.device import resolve_device
    from gdseg.train.budget import run_plan
    from gdseg.train.budget_plan import make_plan
    from gdseg.train.budget_report import draw_results, save_results

    variants = {title: apply_overrides(base, words) for title, words in own.items()}
    plan = make_plan(variants, shares, _numbers("--seeds", seeds, int), kinds)
    plan.recipes = _made_by(name, context.params, own)
    if dry_run:
        _describe(plan, target)
        return
    silent, metric, chosen = quiet or as_json, base.best_metric, resolve_device(device)
    tell = _teller(plan, target, metric, quiet=silent)
    with hold(target):
        run_plan(plan, target, chosen, jobs=jobs, quiet=silent, done=tell)
        report = save_results(plan, target, metric)
        pictures = draw_results(plan, target, report, chosen, conf)
    if as_json:
        print_json(report)
    elif not quiet:
        _print(report, kinds, target, pictures)


def read_variants(texts: list[str]) -> dict[str, list[str]]:
    """The overrides of each variant: none of the recipe's own, and of each 'NAME: KEY=VALUE ..'.

    Raises UsageError.
    """
    variants: dict[str, list[str]] = {BASE: []}
    for text in texts:
        name, colon, changes = text.partition(":")
        name = name.strip()
        if not (colon and name and changes.strip()) or "=" in name:
            raise UsageError(f"'{text}' is no variant", "--variant", "as 'soft: distill.weighting=score'")
        if name in variants:
            raise UsageError(f"two variants are named '{name}'", "--variant", "give each its own name")
        variants[name] = _words(changes)
    return variants


def _refuse_replaced(
    overrides: list[str], variants: Mapping[str, list[str]], *, by_ratios: bool, by_split: bool
) -> None:
    """Raises UsageError for a key that would do nothing, as --seeds and --ratios have the last word.

    by_ratios: --ratios is given. by_split: no ratio holds but the recipe's split, of which a variant may have
    another.
    """
    shared = ["data.ratio", "data.split"] if by_ratios else []
    own = ["data.ratio"] if by_split else ["data.ratio", "data.split"]
    refused = [(item, shared) for item in overrides]
    refused += [(item, own) for words in variants.values() for item in words]
    for item, keys in refused:
        if (key := item.partition("=")[0]) in ["seed", *keys]:
            flag = "--seeds" if key == "seed" else "--ratios"
            what = f"{flag}, or what it is by default, says which images are labelled, not {key}"
            raise UsageError(what, item, f"use {flag} instead")


def _made_by(name: str, params: Mapping[str, Any], variants: Mapping[str, list[str]]) -> dict[str, str]:
    """The recipe's name, and what makes each variant of it, as overrides."""
    flags = ("unlabelled", "batch_size", "precision", "overrides")
    shared = recipe_changes({flag: params[flag] for flag in flags})
    return {title: shlex.join([name, *shared, *words]) for title, words in variants.items()}


def _words(text: str) -> list[str]:
    """Items between spaces; quotes keep spaces in a value."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"'{text}': {error}", "--variant", "close the quotes") from error


def _numbers(flag: str, text: str, kind: Callable[[str], _T]) -> list[_T]:
    """Different numbers between commas. Raises UsageError."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers):
        example = "whole numbers, as 0,1,2" if kind is int else "shares of the images, as 0.02,0.1,0.5"
        raise UsageError(f"'{text}' is no list of different numbers", flag, f"{example}, each once")
    return numbers


def _kinds(text: str) -> list[str]:
    """What is between commas, each a kind of arms. Raises UsageError."""
    kinds = [kind.strip() for kind in text.split(",")]
    if unknown := set(kinds) - set(ARMS):
        raise UsageError(f"'{min(unknown)}' is no arm", "--arms", f"some of {','.join(ARMS)}")
    return kinds


def _own_ratio(recipe: Recipe) -> float | None:
    return None if recipe.data.split else recipe.data.ratio


def _describe(plan: Plan, out: Path) -> None:
    """Print each run: what it is for first, and whether it is there."""
    from gdseg.train.budget import finished

    rows = []
    for job in plan.jobs.values():
        arms = [arm for arm, key in plan.arms.items() if key == job.key]
        more = f" and {len(arms) - 1} more" if len(arms) > 1 else ""
        there = "finished" if finished(out, job) else "to do"
        rows.append([arms[0].name + more, str(job.steps), job.folder, there])
    print_table(f"{counted(len(rows), 'run')} in {out}", ["for", "steps", "run", ""], rows)


def _teller(plan: Plan, out: Path, metric: str, *, quiet: bool) -> Callable[[Job, Result], None]:
    """What to call after each run: the results so far are saved, and a line says how it went."""
    from gdseg.train.budget import finished
    from gdseg.train.budget_report import save_results

    def tell(job: Job, result: Result) -> None:
        """Save and say."""
        save_results(plan, out, metric)
        if not quiet:
            arm = next(arm for arm, key in plan.arms.items() if key == job.key)
            there = sum(finished(out, other) is not None for other in plan.jobs.values())
            role = "student" if job.teacher else "teacher"
            score = result.diverged or f"{metric} {percent(result.scores[role].get(metric))}"
            err.print(
                f"{there}/{len(plan.jobs)} {arm.name}: {score}, {result.seconds / 60:.1f} min",
                soft_wrap=True,
            )

    return tell


def _print(report: dict[str, Any], kinds: list[str], out: Path, pictures: list[str]) -> None:
    for table in _tables(report):
        print_table(*table)
    written = f"written to {out}: budget.json, runs.json, {', '.join(pictures)}"
    for line in [*_diverged(report), *_lacking(kinds), written]:
        err.print(line, soft_wrap=True)


def _tables(report: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Scores, and what they say of the student; a column that nothing fills is left out.

    Minutes of a run that several rows share are in the first of them.
    """
    rows = report["table"]
    gains = {name: word for name, (word, _) in GAINS.items()}
    if len({row["variant"] for row in rows}) > 1:
        gains["over_first"] = f"over {BASE}'s student"
    seeds = max((row["seeds"] for row in rows), default=0)
    over = f"mean and standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    scores = f"{report['metric']}, %: {over}", {**ARMS, "average": "EMA teacher"}
    tables: list[tuple[str, list[str], list[list[str]]]] = []
    for title, columns in (scores, ("student, points, and % of the way to all labels", gains)):
        shown = {name: word for name, word in columns.items() if any(row[name] for row in rows)}
        body = [
            [row["variant"], str(row["labelled"]), *(_cell(row[name], row["seeds"]) for name in shown)]
            for row in rows
        ]
        if shown or not tables:
            tables.append((title, ["", "labelled", *shown.values()], body))
    for line, row in zip(tables[-1][2], rows, strict=True):
        line.append(f"{row['seconds'] / 60:.1f}")
    tables[-1][1].append("minutes")
    return tables


def _lacking(kinds: list[str]) -> list[str]:
    """Which gains were left out for want of which arms; a line, or none."""
    lost = {word: needed - set(kinds) for word, needed in GAINS.values() if not needed <= set(kinds)}
    arms = ",".join(kind for kind in ARMS if any(kind in each for each in lost.values()))
    return [f"not told without --arms {arms}: {', '.join(lost)}"] if lost else []


def _cell(spread: dict[str, Any] | None, seeds: int) -> str:
    """Mean and deviation, and of how many seeds where some have none (diverged, to come, no gap)."""
    if spread is None:
        return "-"
    deviation = "" if spread["std"] is None else f" \u00b1 {percent(spread['std'])}"
    there = len(spread["values"])
    return percent(spread["mean"]) + deviation + (f" ({there} of {seeds})" if there < seeds else "")


def _diverged(report: dict[str, Any]) -> list[str]:
    """A line for each run that did."""
    return [f"{row['name']}: {row['diverged']}" for row in report["arms"] if "diverged" in row]

"""`gdseg convert`: official and Hugging Face weights to gdseg's files, and back. Parse, convert, report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gdseg.cli import options as o
from gdseg.cli.console import err, out, print_json, print_table
from gdseg.errors import UsageError
from gdseg.recipe_table import official_recipes

if TYPE_CHECKING:
    from gdseg.train.convert import Report

EXAMPLES = """Examples:

  gdseg convert model_final_3c8ec9.pkl --out m2f.safetensors     then: gdseg predict m2f.safetensors photos/

  gdseg convert model_best.pth --role student --out student.safetensors

  gdseg convert R-50.pkl --out r50.safetensors                   a backbone, for backbone.weights

  gdseg convert runs/R/checkpoints/best.safetensors --to official --out model.pth
"""


def command(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="CKPT",
            help="A .pth, .pkl or .safetensors file, or a Hugging Face folder.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write.", rich_help_panel=o.OUTPUT)
    ] = None,
    role: Annotated[
        str | None,
        typer.Option("--role", help="Of a student/teacher ensemble or a run: teacher (default) or student."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", help="Official yaml, or a name of --list (default: what the tensors tell)."),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option("--classes", help="Text file with one class name a line.", rich_help_panel=o.DATA),
    ] = None,
    to: Annotated[str, typer.Option("--to", help="gdseg, or official for the way back.")] = "gdseg",
    listing: Annotated[bool, typer.Option("--list", help="Print the published configurations.")] = False,
    overwrite: o.OverwriteOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
    debug: o.DebugOpt = False,
) -> None:
    """Convert weights of Mask2Former, Mask DINO, Guided Distillation, Hugging Face, or a backbone."""
    if listing:
        _list(source, as_json)
        return
    if source is None or target is None:
        raise UsageError("give the file to convert and --out", hint="gdseg convert --help")
    if role not in (None, "teacher", "student") or to not in ("gdseg", "official"):
        raise UsageError("--role is teacher or student, --to is gdseg or official")
    if target.exists() and not overwrite:
        raise UsageError("the file exists", target, "--overwrite replaces it")
    from gdseg.train.convert.files import Wanted, convert_file, export_official

    if to == "official":
        if config is not None or classes is not None:
            raise UsageError("--config and --classes say what an official file is; --to official reads ours")
        done = export_official(source, target, role)
        if as_json:
            print_json({"out": str(target), **asdict(done)})
        elif not quiet:
            out.print(f"{target}: {done.tensors} tensors as {done.official} official ones")
            for difference in done.differs:
                err.print(f"not in a file of weights: {difference}")
        return
    report = convert_file(source, target, Wanted(role, config, _lines(classes)))
    if as_json:
        print_json({"out": str(target), **summary(report), **_in_full(report)})
    elif not quiet:
        show(report, target)


def _list(source: Path | None, as_json: bool) -> None:
    from gdseg.train.convert.identify import published

    if source is not None:
        raise UsageError("--list prints names and converts nothing", source)
    recipes = {name: entry.name for entry in official_recipes().values() for name in entry.official}
    if as_json:
        print_json({"published": list(published()), "recipes": recipes})
        return
    width = max(map(len, published()))
    for name in published():
        print(f"{name:{width}}  {recipes[name]}")


def _in_full(report: Report) -> dict[str, Any]:
    """Every tensor of the report, and the classes."""
    return {**asdict(report), "classes": report.classes, "category_ids": report.category_ids}


def _lines(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--classes cannot be read: {error}", path) from error
    if not names:
        raise UsageError("--classes holds no name", path)
    return names


def summary(report: Report) -> dict[str, Any]:
    """The report in a few words and numbers."""
    return {
        "family": report.family,
        "configuration": report.configuration,
        "role": report.role or "-",
        "parameters": report.parameters,
        "classes": report.num_classes,
        "classes_from": report.classes_from or "-",
        "license": report.license,
        **report.counts(),
        "unexplained": 0,  # anything unexplained is an error
    }


def show(report: Report, target: Path) -> None:
    """Print the report; what was assumed or ignored goes to stderr."""
    print_table(str(target), ["what", "found"], [[k, str(v)] for k, v in summary(report).items()])
    if report.also_fits:
        err.print(f"also fits: {', '.join(report.also_fits)}; --config NAME chooses")
    for name, change in report.adapted.items():
        err.print(f"adapted: {name} ({change})")
    if report.use:
        err.print(f"recipe keys: {' '.join([*report.use, f'backbone.weights={target}'])}")
    for difference in report.differences:
        err.print(f"the file differs: {difference}")
    for option in report.unlike:
        err.print(f"not taken over: {option}")
    for reason in sorted(set(report.ignored.values())):
        names = [name for name, why in report.ignored.items() if why == reason]
        err.print(f"ignored: {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} ({reason})")
    if report.assumed:
        err.print(f"not in the file, taken from {report.configuration}: {', '.join(report.assumed)}")

"""The `gdseg` command: ties the verbs together and turns errors into three lines and an exit code."""

import errno
import logging
import os
import sys
import traceback
import warnings

import typer

from gdseg import __version__
from gdseg.cli import (
    bench,
    budget,
    convert,
    data,
    distill,
    doctor,
    eval,
    predict,
    pretrain,
    pseudo_label,
    recipe,
    report,
    visualize,
)
from gdseg.errors import GdsegError, MachineError

app = typer.Typer(
    name="gdseg",
    help="Segmentation from few labels: pretrain a teacher, distil a student, evaluate, predict.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

for name, module in {
    "pretrain": pretrain,
    "distill": distill,
    "pseudo-label": pseudo_label,
    "eval": eval,
    "predict": predict,
    "visualize": visualize,
    "report": report,
    "budget": budget,
    "convert": convert,
    "bench": bench,
    "doctor": doctor,
}.items():
    app.command(name, epilog=module.EXAMPLES)(module.command)
app.add_typer(data.data_app, name="data")
app.add_typer(recipe.recipe_app, name="recipe")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
) -> None:
    """Segmentation from few labels: pretrain a teacher, distil a student, evaluate, predict."""
    if version:
        print(f"gdseg {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line and exit (codes: DESIGN.md, "Command line")."""
    _open_closed_streams()
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    _show_log(quiet=bool({"-q", "--quiet"} & set(sys.argv)))
    try:
        app()
    except GdsegError as error:
        _leave(error)
    except BrokenPipeError:  # the reader of our output has gone, as in `gdseg recipe list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            _bug(error)
        _leave(MachineError("the disk is full", error.filename, "free some space, then try again"))
    except KeyboardInterrupt as stop:
        print(f"interrupted; {stop or 'what was saved before is still there'}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's; this module must not import torch
            hint = "a smaller --batch-size, train.accumulate=2 or backbone.checkpointing=true"
            _leave(MachineError("the device's memory is full", hint=hint))
        _bug(error)  # anything else is our bug: say so


def _open_closed_streams() -> None:
    """Standard streams that the caller closed (`>&-`) lead nowhere, or the next file gets their number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115


def _show_log(quiet: bool) -> None:
    """What the library logs goes to stderr; only warnings with --quiet."""
    logger = logging.getLogger("gdseg")
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.handlers = [logging.StreamHandler()]


def _leave(error: GdsegError) -> None:
    if "--debug" in sys.argv:
        traceback.print_exc()
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)


def _bug(error: Exception) -> None:
    if "--debug" in sys.argv:
        traceback.print_exc()
    last = traceback.extract_tb(error.__traceback__)[-1]
    print(f"bug: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"  where: {last.filename}:{last.lineno}", file=sys.stderr)
    print("  try:   run again with --debug and please report the traceback", file=sys.stderr)
    sys.exit(1)

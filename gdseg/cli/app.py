"""The `gdseg` command: ties the verbs together and turns errors into three lines and an exit code."""

import errno
import sys
import traceback

import typer

from gdseg.errors import GdsegError, MachineError

app = typer.Typer(
    name="gdseg",
    help="Segmentation from few labels: pretrain a teacher, distil a student, evaluate, predict.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Run the command line and exit (codes: DESIGN.md, "Command line")."""
    try:
        app()
    except GdsegError as error:
        _leave(error, error.exit_code)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            _bug(error)
        _leave(MachineError("the disk is full", error.filename, "free some space, then go on with --resume"), 5)
    except Exception as error:  # anything else is our bug: say so
        _bug(error)


def _leave(error: GdsegError, code: int) -> None:
    if "--debug" in sys.argv:
        traceback.print_exc()
    print(error, file=sys.stderr)
    sys.exit(code)


def _bug(error: Exception) -> None:
    if "--debug" in sys.argv:
        traceback.print_exc()
    last = traceback.extract_tb(error.__traceback__)[-1]
    print(f"bug: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"  where: {last.filename}:{last.lineno}", file=sys.stderr)
    print("  try:   run again with --debug and please report the traceback", file=sys.stderr)
    sys.exit(1)

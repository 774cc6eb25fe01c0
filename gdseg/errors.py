"""The errors a user can cause, each with its exit code (DESIGN.md, "Command line").

Every error says what is wrong, where, and what to do. `gdseg.cli.app.main` prints the three
lines and exits; anything that is not a `GdsegError` is a bug of ours and exits with 1.
"""

from pathlib import Path


class GdsegError(Exception):
    """An expected failure. `what` went wrong, `where` (file, key, image), `hint` what to do next."""

    exit_code = 1
    kind = "error"

    def __init__(self, what: str, where: str | Path | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint

    def __str__(self) -> str:
        """The three lines the user sees: what, where, what to do."""
        lines = [f"{self.kind}: {self.what}"]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.hint:
            lines.append(f"  try:   {self.hint}")
        return "\n".join(lines)


class UsageError(GdsegError):
    """A wrong flag, argument or recipe."""

    exit_code = 2
    kind = "usage error"


class RecipeError(UsageError):
    """A recipe that cannot be used; `what` holds every fault found, one a line."""

    kind = "recipe error"


class DataError(GdsegError):
    """Images or annotations that are missing, unreadable or contradictory."""

    exit_code = 3
    kind = "data error"


class CheckpointError(GdsegError):
    """Weights that are missing, unsafe, or of another architecture."""

    exit_code = 4
    kind = "checkpoint error"


class MachineError(GdsegError):
    """The machine cannot do it: device, disk, missing library."""

    exit_code = 5
    kind = "environment error"


class DivergedError(GdsegError):
    """Training produced a NaN or an infinity. `interrupted`: a signal to stop came in the same step."""

    exit_code = 6
    interrupted = False
    kind = "training diverged"


class InterruptedRun(GdsegError):  # noqa: N818 - not a fault
    """Ctrl-C or SIGTERM: the run was saved."""

    exit_code = 130
    kind = "interrupted"

"""How pretrain and distill turn flags into a recipe and a run directory. No torch at import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gdseg.errors import UsageError
from gdseg.runs import last_run


def flag_overrides(flags: Mapping[str, Any], overrides: list[str]) -> list[str]:
    """`key=value` items of the given flags followed by the user's own.

    flags maps recipe keys to values, None meaning not given. Raises UsageError when a key is given
    both ways.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    twice = [key for key in given if any(item.partition("=")[0] == key for item in overrides)]
    if twice:
        raise UsageError(f"{twice[0]} is given both as a flag and as an override", hint="keep one of them")
    return [f"{key}={_quoted(value)}" for key, value in given.items()] + overrides


def resumed_run(verb: str, name: str | None, out: Path | None) -> Path:
    """The run that --resume goes on with; its recipe.yaml is the recipe. Raises UsageError, CheckpointError."""
    run = out or last_run(verb)
    if name is not None:
        raise UsageError("--resume goes on with the run's own recipe", hint="leave --recipe away")
    if not (run / "recipe.yaml").is_file():
        raise UsageError("not a run directory, it has no recipe.yaml", run, "start it without --resume")
    return run


def _quoted(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_quoted, value)) + "]"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value)

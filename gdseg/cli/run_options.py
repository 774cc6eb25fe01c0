"""What pretrain and distill share: flags into recipe changes, the run to resume, running and printing.

No torch at import.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gdseg.cli.console import err, print_json
from gdseg.errors import UsageError
from gdseg.lock import hold
from gdseg.recipe import Recipe
from gdseg.runs import last_run, settle_run, was_cut_off

INFERENCE_KEYS = {
    "tile": "inference.tile",
    "overlap": "inference.overlap",
    "scales": "inference.scales",
    "flip": "inference.flip",
}
RECIPE_KEYS = {
    "data": "data.root",
    "unlabelled": "data.unlabelled",
    "ratio": "data.ratio",
    "split": "data.split",
    "batch_size": "train.batch_size",
    "precision": "train.precision",
    "seed": "seed",
    **INFERENCE_KEYS,
}
PLACES = ("train", "train_images", "train_maps", "val", "val_images", "val_maps", "classes")
# (flag's key, key it resets, value): a split replaces a ratio, other data is looked through anew,
# and the ignore band below a threshold has no meaning for another threshold
IMPLIED = [
    ("data.split", "data.ratio", "1.0"),
    ("data.ratio", "data.split", "null"),
    ("distill.class_threshold", "distill.ignore_threshold", "0"),
    ("data.root", "data.format", "auto"),
    *(("data.root", f"data.{name}", "null") for name in PLACES),
]
# What may differ when a run goes on; anything else would make it another run.
RESUMABLE = ("data.root", "data.workers", "train.log_every", "train.eval_every", "train.save_every")


def recipe_changes(params: Mapping[str, Any], **more: str) -> list[str]:
    """`key=value` items of a command's flags, by parameter name, followed by its overrides.

    `more` maps further parameter names to recipe keys, as steps="train.steps". A split replaces a ratio and
    a ratio a split, flag or override. Raises UsageError when a key is given both ways.
    """
    keys = {**RECIPE_KEYS, **more}
    flags = {key: params[name] for name, key in keys.items() if params.get(name) not in (None, [], ())}
    overrides = list(params.get("overrides") or [])
    if "data.ratio" in flags and "data.split" in flags:
        raise UsageError(
            "--ratio and --split exclude each other", hint="a split names the labelled images itself"
        )
    twice = [key for key in flags if any(item.partition("=")[0] == key for item in overrides)]
    if twice:
        raise UsageError(f"{twice[0]} is given both as a flag and as an override", hint="keep one of them")
    changes = [f"{key}={_text(key, value)}" for key, value in flags.items()]
    touched = {item.partition("=")[0] for item in changes + overrides}
    last = {key: value for key, _, value in (item.partition("=") for item in overrides)}
    named = {key for key in ("data.split", "data.ratio") if last.get(key, "") not in ("", "null")}
    causes = flags.keys() | named  # no recipe may have both
    implied = [f"{key}={value}" for cause, key, value in IMPLIED if cause in causes and key not in touched]
    return implied + changes + overrides


def inference_changes(params: Mapping[str, Any], overrides: Sequence[str] = ()) -> list[str]:
    """`recipe_changes` of the flags of section `inference` alone, followed by the overrides."""
    return recipe_changes({**{name: params.get(name) for name in INFERENCE_KEYS}, "overrides": overrides})


def say_last(path: Path, *, quiet: bool) -> None:
    """Say which run or checkpoint a command takes that was given none."""
    if not quiet:
        err.print(f"the last run is taken: {path}", soft_wrap=True)


def resumed_run(verb: str, params: Mapping[str, Any], changes: list[str]) -> Path:
    """The run that --resume goes on with. Raises UsageError, CheckpointError."""
    run: Path = params["out"] or last_run(verb)
    other = [key for item in changes if (key := item.partition("=")[0]) not in RESUMABLE]
    other += [f"--{name}" for name in ("recipe", "teacher", "overwrite") if params.get(name)]
    if other:
        what = f"--resume goes on with the run's own recipe and teacher, not with another {other[0]}"
        raise UsageError(what, hint=f"leave {other[0]} away, or start a new run")
    if was_cut_off(run):  # before its recipe is read: the files there are not the run's own
        with hold(run):
            settle_run(run)
    if not (run / "recipe.yaml").is_file():
        raise UsageError("not a run directory, it has no recipe.yaml", run, "start it without --resume")
    return run


def execute(
    verb: str,
    recipe: Recipe,
    run: Path,
    params: Mapping[str, Any],
    train: Callable[..., Any],
    after: str,
    teacher: Path | None = None,
) -> None:
    """Describe the run (--dry-run), or call `train(recipe, run, device=..)` and say what is next.

    teacher: the network that a distillation starts from.
    """
    from gdseg.device import resolve_device
    from gdseg.models.deform_attn_kernel import announce
    from gdseg.train.plan import describe

    device = resolve_device(params["device"])
    if params["dry_run"]:
        print(describe(recipe, run, device, verb, teacher))
        return
    announce(logging.INFO)  # what it takes to train depends on it
    quiet = params["quiet"] or params["as_json"]
    how = {"resume": params["resume"], "overwrite": params["overwrite"], "quiet": quiet}
    with hold(run):
        scores = train(recipe, run, device=device, **how)
    if params["as_json"]:
        print_json({"run": str(run), **scores})
    elif not quiet:
        print(f"saved in {run}; next: {after}")


def _text(key: str, value: Any) -> str:
    """The value as an override's text: words as they are, lists as YAML, also those typed as A,B."""
    if key == "inference.scales":
        return f"[{value}]"
    return json.dumps(value) if isinstance(value, list | tuple) else str(value)

"""Run directories: where a run lives, which is the last one, which file of it a word means. No torch here.

Layout (DESIGN.md, "Run directory"): runs/<verb>-<recipe>-<time>/{recipe.yaml, run.json, split.json,
metrics.jsonl, eval.jsonl, checkpoints/}. `student` and `teacher` of a distillation are two files.
"""

import shutil
import time
from pathlib import Path

from gdseg.errors import CheckpointError, UsageError

RUNS = Path("runs")


def new_run(verb: str, recipe_name: str, out: Path | None, *, resume: bool, overwrite: bool) -> Path:
    """Create the run directory and return it.

    Raises UsageError when `out` holds something and neither resume nor overwrite was asked for.
    """
    if out is None:
        if resume:
            return last_run(verb)
        out = RUNS / f"{verb}-{recipe_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    refuse_non_empty(out, overwrite=overwrite or resume)
    if overwrite and not resume and out.is_dir():
        shutil.rmtree(out)
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    return out


def refuse_non_empty(out: Path, *, overwrite: bool) -> None:
    """Raise UsageError if `out` is a file where a folder is needed, or a folder with something in it."""
    if out.is_file():
        raise UsageError("--out is a file, a folder is needed", out, "name another folder")
    if not overwrite and out.is_dir() and any(out.iterdir()):
        raise UsageError("the folder is not empty", out, "use --overwrite to replace it or name another --out")


def last_run(verb: str | None = None) -> Path:
    """The run that was started last, of one verb or of any. Raises CheckpointError if there is none."""
    runs = [p.parent for p in RUNS.glob("*/run.json") if verb is None or p.parent.name.startswith(f"{verb}-")]
    if not runs:
        maker = f"gdseg {verb or 'pretrain'}"
        raise CheckpointError("there is no run yet", RUNS.resolve(), f"'{maker}' makes one")
    return max(runs, key=lambda run: (run / "run.json").stat().st_mtime_ns)


def find_checkpoint(given: str | Path | None, role: str | None = None, verb: str | None = None) -> Path:
    """The network file that a word means: a file, a run directory, or None for the last run.

    role: "student", "teacher" or None (a run's best network: the chosen one of `best.safetensors`).
    Raises CheckpointError when nothing fits.
    """
    path = last_run(verb) if given is None else Path(given)
    if path.is_file():
        return path
    if not path.exists():
        raise CheckpointError("no such checkpoint", path, "give a .safetensors file or a run directory")
    folder = path / "checkpoints"
    names = [f"best-{role}.safetensors", f"last-{role}.safetensors"] if role else []
    names += [] if role else ["best.safetensors", "last.safetensors"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    wanted = f"{role} network" if role else "network"
    raise CheckpointError(f"the run holds no {wanted}", folder, "has it saved a checkpoint yet?")

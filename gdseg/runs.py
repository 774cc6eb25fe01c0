"""Run directories: where a run lives, which is the last one, which file of it a word means. No torch here.

Layout (DESIGN.md, "Run directory"): runs/<verb>-<recipe>-<time>/{recipe.yaml, run.json, split.json,
metrics.jsonl, eval.jsonl, checkpoints/}. `student` and `teacher` of a distillation are two files.
"""

import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gdseg.errors import CheckpointError, UsageError
from gdseg.files import cannot_write, file_sha256, rename_all
from gdseg.lock import LOCK

RUNS = Path("runs")
VERBS = ("pretrain", "distill")
ROLES = ("teacher", "student")
REPLACED = ".replaced"  # in a run directory: the run that --overwrite replaces, until the new one is saved
_MOVING = ".replaced.part"  # the same on its way there or back: what it holds belongs into the run directory


def new_run(verb: str, recipe_name: str, out: Path | None, *, overwrite: bool) -> Path:
    """Where a new run goes: `out`, or a name made of verb, recipe and time. Nothing is created yet.

    Raises UsageError when it holds something and overwrite was not asked for.
    """
    if out is None:
        out = RUNS / f"{verb}-{recipe_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    refuse_non_empty(out, overwrite=overwrite)
    return out


def recipe_name(run: Path) -> str | None:
    """The recipe's name in a name that `new_run` made; None for other folders."""
    found = re.fullmatch(rf"(?:{'|'.join(VERBS)})-(.+)-\d{{8}}-\d{{6}}", run.name)
    return found[1] if found else None


def prepare_run(run: Path, *, overwrite: bool) -> None:
    """Create the run directory; with overwrite, set the run in it aside until `settle_run`.

    Raises UsageError when what would be replaced is not a run of gdseg or holds the working folder,
    MachineError where it cannot write.
    """
    inside = overwrite and Path.cwd().is_relative_to(run.resolve())
    if not inside:
        settle_run(run)
    if overwrite and (old := _content(run)):
        if inside or not _is_run(run):
            raise UsageError("--overwrite replaces runs only, this folder is none", run, "name another --out")
        if any((run / "checkpoints").glob("*.safetensors")):
            moving = run / _MOVING
            with _writing(run):
                moving.mkdir()
                rename_all([*((path, moving / path.name) for path in old), (moving, run / REPLACED)])
        else:  # a run that ended before it saved anything
            _remove(run, old)
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)


def settle_run(run: Path) -> bool:
    """End what `prepare_run` began: drop the run set aside if the new one is saved, else put it back.

    Also after a process that was killed anywhere in between: a run on its way is put back, and that again
    may be killed. Only who holds the run may call it. Returns whether a run set aside is in place again.
    Raises MachineError where it cannot write.
    """
    aside, moving = run / REPLACED, run / _MOVING
    if moving.is_dir():  # first: without it the run may look as if it were not saved
        _back(run)
    if not aside.is_dir():
        return False
    if (run / "checkpoints" / "last.state.pt").is_file():
        shutil.rmtree(aside, ignore_errors=True)
        return False
    if not _is_run(aside):
        return False
    _remove(run, (path for path in _content(run) if path != aside))
    with _writing(run):
        aside.rename(moving)  # first: no part of it that is back is ever taken for a new run
    _back(run)
    return True


def was_cut_off(run: Path) -> bool:
    """Whether a run is set aside there: by a process that is at work, or by one that was killed."""
    return (run / REPLACED).is_dir() or (run / _MOVING).is_dir()


def _back(run: Path) -> None:
    moving = run / _MOVING
    with _writing(run):
        rename_all([(path, run / path.name) for path in moving.iterdir()])
        moving.rmdir()


def _is_run(folder: Path) -> bool:
    checkpoints = folder / "checkpoints"
    return checkpoints.is_dir() and (
        read_run(folder).get("verb") in VERBS
        or {*_content(folder), *checkpoints.iterdir()} == {checkpoints}  # all that a full disk let be
    )


def _remove(run: Path, paths: Iterable[Path]) -> None:
    with _writing(run):
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextmanager
def _writing(run: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(run, error) from error


def refuse_non_empty(out: Path, *, overwrite: bool | None) -> None:
    """Raise UsageError if `out` is a file where a folder is needed, or a folder with something in it.

    overwrite: whether --overwrite was given; None: the verb has none.
    """
    if out.is_file():
        raise UsageError("--out is a file, a folder is needed", out, "name another folder")
    if not overwrite and _content(out):
        choice = "" if overwrite is None else "use --overwrite to replace it or "
        raise UsageError("the folder is not empty", out, f"{choice}name another --out")


def _content(folder: Path) -> list[Path]:
    """What a folder holds besides the lock of a process that is or was at work in it."""
    return [path for path in folder.iterdir() if path.name != LOCK] if folder.is_dir() else []


def last_run(verb: str | None = None) -> Path:
    """The last started run that has saved a network. Raises CheckpointError if none of the verb has."""
    found = [p.parent for p in RUNS.glob("*/run.json") if verb in (None, read_run(p.parent).get("verb"))]
    runs = [run for run in found if any((run / "checkpoints").glob("*.safetensors"))]
    if not runs:
        maker = f"gdseg {verb or 'pretrain'}"
        raise CheckpointError("there is no run yet", RUNS.resolve(), f"'{maker}' makes one")
    return max(runs, key=lambda run: (run / "run.json").stat().st_mtime_ns)


def read_run(run: Path) -> dict[str, Any]:
    """What run.json says; empty when it is missing or broken."""
    try:
        about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def teacher_of(run: Path) -> Path:
    """The teacher a distillation run started from. Raises CheckpointError if it is gone or was replaced."""
    about = read_run(run)
    teacher = about.get("teacher")
    if not isinstance(teacher, str) or not Path(teacher).is_file():
        raise CheckpointError(f"the run's teacher is gone: {teacher}", run, "put it back, or distil anew")
    if about.get("teacher_sha256") != file_sha256(Path(teacher)):
        raise CheckpointError("the run's teacher has been replaced", teacher, "put it back, or distil anew")
    return Path(teacher)


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
    names += [] if role else ["best.safetensors", "last-student.safetensors", "last-teacher.safetensors"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    wanted, hint = f"{role} network" if role else "network", "has it saved a checkpoint yet?"
    if was_cut_off(path):
        hint = f"the run that --overwrite was to replace is in {path / REPLACED}; --resume puts it back"
    raise CheckpointError(f"the run holds no {wanted}", folder, hint)


def run_of(checkpoint: Path) -> Path | None:
    """The run directory that a network file lies in; None for a file elsewhere."""
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == "checkpoints" else None


def network_name(role: str, verb: str | None) -> str:
    """What tables, curves and texts call a network of that role in a run of that verb.

    A distillation's own teacher is the student's moving average; the one it starts from is the "pretrained
    teacher", which beside other networks is the name of pretraining's too.
    """
    return "EMA teacher" if (role, verb) == ("teacher", "distill") else role


def networks_of(run: Path) -> dict[str, Path]:
    """Name -> file of the networks a run has: teacher, student.

    Of a distillation: pretrained teacher, if that is still there, EMA teacher, student.
    """
    found, verb = {}, read_run(run).get("verb")
    with suppress(CheckpointError):
        found["pretrained teacher"] = teacher_of(run)
    for role in ROLES:
        with suppress(CheckpointError):
            found[network_name(role, verb)] = find_checkpoint(run, role)
    return found

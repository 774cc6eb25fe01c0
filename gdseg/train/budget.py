"""`gdseg budget`: run the arms of a plan, each once, in this process or in several, and gather their scores.

A run lives in OUT/runs/<verb>-<key>; its result is there when it is finished, and it is not run again. A run
that was interrupted goes on where it was saved. budget_plan.py says which runs there are. Called by
cli/budget.py.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from gdseg.data.dataset import open_dataset
from gdseg.errors import CheckpointError, DivergedError, InterruptedRun, MachineError, UsageError
from gdseg.eval.run import evaluate
from gdseg.files import write_json
from gdseg.lock import hold
from gdseg.models.checkpoint import load_network
from gdseg.runs import read_run
from gdseg.train.budget_plan import Job, Plan
from gdseg.train.distill import distill
from gdseg.train.pretrain import pretrain
from gdseg.words import counted

Scores = dict[str, dict[str, float]]
_RESULT = "result.json"
_AGAIN = "give the same command again"


@dataclass
class Result:
    """What a finished run left: last metrics by role, labelled images, seconds of training."""

    scores: Scores = field(default_factory=dict)
    labelled: int = 0
    seconds: float = 0.0
    diverged: str = ""


def run_folder(out: Path, job: Job) -> Path:
    """The run directory of a job."""
    return out / "runs" / job.folder


def last_network(run: Path, role: str) -> Path:
    """The network that an arm's score is of: the last, not one chosen on the images that judge it."""
    return run / "checkpoints" / f"last-{role}.safetensors"


def finished(out: Path, job: Job) -> Result | None:
    """The result of a job that has been run, else None."""
    try:
        return Result(**json.loads((run_folder(out, job) / _RESULT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def run_job(job: Job, out: Path, device: torch.device, quiet: bool) -> Result:
    """Train a job's network, or go on with it; its result is written when it is finished.

    A run that diverges has a result without scores, kept like others. Raises what `pretrain` and `distill`
    raise otherwise, InterruptedRun after saving, UsageError while another process trains it.
    """
    with hold(run_folder(out, job)):
        return _run_job(job, out, device, quiet)


def _run_job(job: Job, out: Path, device: torch.device, quiet: bool) -> Result:
    run, stopped = run_folder(out, job), False
    begun = (run / "checkpoints" / "last.state.pt").is_file()
    try:
        result = Result(_train(job, out, device, quiet, resume=begun))
    except DivergedError as error:
        result, stopped = Result(diverged=error.what), error.interrupted
    except CheckpointError as error:
        if not begun:
            raise
        raise CheckpointError(error.what, run, "delete this folder, then the run starts anew") from error
    except UsageError:
        if not begun:
            raise
        result = Result(_evaluate(job, run, device))  # it was finished, but for writing its result
    result.labelled = int(read_run(run).get("labelled", 0))
    result.seconds = sum(json.loads(line)["seconds"] for line in _lines(run / "time.jsonl"))
    write_json(run / _RESULT, asdict(result))
    if stopped:
        raise InterruptedRun("the run diverged", run, _AGAIN)
    return result


def _train(job: Job, out: Path, device: torch.device, quiet: bool, *, resume: bool) -> Scores:
    run = run_folder(out, job)
    how: dict[str, Any] = {"resume": resume, "overwrite": not resume, "quiet": quiet, "again": _AGAIN}
    if job.teacher is None:
        return pretrain(job.recipe, run, device, **how)
    teacher = last_network(run.with_name(f"pretrain-{job.teacher}"), "teacher")
    return distill(job.recipe, run, teacher, device, **how)


def _evaluate(job: Job, run: Path, device: torch.device) -> Scores:
    dataset = open_dataset(job.recipe.data, task=job.recipe.task)
    scores = {}
    for role in ("teacher", "student") if job.teacher else ("teacher",):
        # the network's recipe has the numbers that the run chose for auto
        network = load_network(last_network(run, role), device)
        scores[role] = evaluate(network.model, dataset, network.recipe, device).metrics
    return scores


def _lines(path: Path) -> Iterator[str]:
    if path.is_file():
        yield from path.read_text(encoding="utf-8").splitlines()


def run_plan(
    plan: Plan,
    out: Path,
    device: torch.device,
    *,
    jobs: int = 1,
    quiet: bool = False,
    done: Callable[[Job, Result], None] = lambda job, result: None,
) -> None:
    """Run what is not finished yet, `jobs` runs at a time; `done` is called after each.

    Students of a teacher that diverged are left out. Raises InterruptedRun, and the first error of a run.
    """
    results = {key: found for key, job in plan.jobs.items() if (found := finished(out, job))}
    waiting = {key: job for key, job in plan.jobs.items() if key not in results}
    finish = _one_by_one if jobs == 1 else _side_by_side
    try:
        for job, result in finish(waiting, results, out, device, jobs, quiet):
            results[job.key] = result
            done(job, result)
    except (InterruptedRun, KeyboardInterrupt) as stop:
        what = f"{len(results)} of {counted(len(plan.jobs), 'run')} finished"
        raise InterruptedRun(what, out, _AGAIN) from stop


def _ready(waiting: dict[str, Job], results: dict[str, Result]) -> list[Job]:
    """Jobs whose teacher is there, in order; those of a teacher that failed are struck off."""
    for key, job in list(waiting.items()):
        if job.teacher in results and results[job.teacher].diverged:
            del waiting[key]
    return [job for job in waiting.values() if job.teacher is None or job.teacher in results]


def _one_by_one(
    waiting: dict[str, Job],
    results: dict[str, Result],
    out: Path,
    device: torch.device,
    _jobs: int,
    quiet: bool,
) -> Iterator[tuple[Job, Result]]:
    while ready := _ready(waiting, results):
        job = waiting.pop(ready[0].key)
        yield job, run_job(job, out, device, quiet)


def _side_by_side(
    waiting: dict[str, Job],
    results: dict[str, Result],
    out: Path,
    device: torch.device,
    jobs: int,
    _quiet: bool,
) -> Iterator[tuple[Job, Result]]:
    """As `_one_by_one`, each run in a process of its own; whatever ends this loop makes all of them save."""
    threads = 0 if "OMP_NUM_THREADS" in os.environ else max(1, torch.get_num_threads() // jobs)
    context = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU
    running: dict[Any, tuple[Job, Any]] = {}
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while True:
            for job in _ready(waiting, results)[: jobs - len(running)]:
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(theirs, job, out, device, threads))
                process.start()
                theirs.close()  # so that a process that dies ends our waiting
                running[ours] = waiting.pop(job.key), process
            if not running:
                return
            for ready in wait(list(running)):
                job, process = running.pop(ready)
                yield job, _received(ready, job, out)
                process.join()
    finally:
        signal.signal(signal.SIGTERM, old)
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


def _child(connection: Any, job: Job, out: Path, device: torch.device, threads: int) -> None:
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the parent alone, which stops each child once
    if threads:
        torch.set_num_threads(threads)
    try:
        connection.send(run_job(job, out, device, quiet=True))
    except Exception as error:
        connection.send(error)


def _received(connection: Any, job: Job, out: Path) -> Result:
    try:
        answer = connection.recv()
    except EOFError as error:
        what = "a training process died (out of memory?)"
        raise MachineError(
            what, run_folder(out, job), "use fewer --jobs, then run the command again"
        ) from error
    if isinstance(answer, Exception):
        raise answer
    assert isinstance(answer, Result)
    return answer

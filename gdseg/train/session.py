"""A run in progress: its folder, log, evaluations, checkpoints, and a clean stop on a signal or bad data.

pretrain.py and distill.py own their loops and call this for what both need around a step.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

import torch

from gdseg.data.dataset import Dataset
from gdseg.device import peak_memory
from gdseg.errors import DataError, DivergedError, InterruptedRun, MachineError, UsageError
from gdseg.eval.run import evaluate
from gdseg.files import link
from gdseg.models.checkpoint import Network, save_network
from gdseg.models.model import SegmentationModel
from gdseg.recipe import Recipe
from gdseg.runs import network_name, settle_run
from gdseg.train.checkpoint import load_state, save_state
from gdseg.train.engine import Learner
from gdseg.train.log import RunLog, append_json, forget_after
from gdseg.words import counted

Roles = Mapping[str, SegmentationModel]  # the networks that are evaluated, by role
State = Mapping[str, torch.nn.Module]  # all networks that the loop changes
_MAIN = ("loss", "grad_norm", "pseudo_per_image", "pseudo_score", "pseudo_ignored", "pseudo_agreement")


class _CutOff(Exception):  # noqa: N818 - not a fault
    """A signal came during an evaluation."""


@dataclass
class Session:
    """What surrounds the steps of one run. `again`: the way on that errors advise, if not the verb's own.

    `unlogged`: losses of the steps since the last log line.
    `evaluated`, `saved`: steps that were done at the last evaluation that was finished, and at the last save.
    `closed`: the last complete step, as `close_step` was told; the networks stay so while a stream delivers.
    """

    verb: str
    run: Path
    recipe: Recipe
    dataset: Dataset
    split_sha256: str
    learner: Learner
    total_steps: int
    quiet: bool = False
    again: str = ""
    start_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    unlogged: list[dict[str, float]] = field(default_factory=list)
    evaluated: int = 0
    saved: int = 0
    stop_signal: int = 0
    closed: tuple[int, Roles, State] = (0, {}, {})

    def __enter__(self) -> Session:
        tensorboard = self.recipe.train.tensorboard
        self.log = RunLog(
            self.run, self.total_steps, self.start_step, quiet=self.quiet, tensorboard=tensorboard
        )
        self._began = time.monotonic()
        self._old = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        self.log.__enter__()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            if isinstance(error, DataError):  # of a stream or an evaluation: a step itself reads no file
                self._save_once(*self.closed)
        except MachineError as full:
            error = full
            raise
        finally:
            if isinstance(error, DataError | MachineError):
                then = "with the file mended" if isinstance(error, DataError) else "that done"
                error.hint = f"{error.hint}; {then}, {self._way_on()}" if error.hint else self._way_on()
            self._end(failed=error is not None)
        if isinstance(error, DivergedError):
            error.interrupted = bool(self.stop_signal)
        if isinstance(error, KeyboardInterrupt):  # the second signal: nothing is saved any more
            raise self._stopped_at_once() from error
        if self.stop_signal and not error:  # it came after the last step was closed
            raise self._interrupted(self.total_steps)

    def _end(self, *, failed: bool) -> None:
        self.log.__exit__()
        for number, handler in self._old.items():
            signal.signal(number, handler)
        seconds = time.monotonic() - self._began
        spent = {"step": self.start_step, "seconds": round(seconds, 1), **peak_memory(self.learner.device)}
        with suppress(MachineError) if failed else nullcontext():  # the first failure is the one to tell
            append_json(self.run / "time.jsonl", spent)

    def resume(self, networks: State) -> None:
        """Go on from the last saved state; `networks` are all networks the loop changes."""
        state = load_state(self._file("last.state.pt"), self.learner, networks)
        self.start_step, self.best = state["step"], state["best"]
        self.unlogged, self.scores, self.evaluated = state["unlogged"], state["scores"], state["evaluated"]
        self.saved = self.start_step
        if self.start_step >= self.total_steps and not self._owes_evaluation(self.start_step):
            hint = f"evaluate it: gdseg eval {shlex.quote(str(self.run))}"
            raise UsageError("the run is finished", self.run, hint)

    def catch_up(self, roles: Roles, state: State) -> None:
        """Do the evaluation that an interruption cut off, and say where a resumed run goes on."""
        if not self.start_step:
            return
        self.closed = (self.start_step, roles, state)
        if self._owes_evaluation(self.start_step):
            self.log.say(f"going on with the evaluation after step {self.start_step} of {self.total_steps}")
            forget_after(self.run / "eval.jsonl", self.start_step - 1)  # rows written before saving failed
            self._evaluate_and_save(self.start_step, roles, state)
        if self.stop_signal:
            self._leave(self.start_step, roles, state)
        if self.start_step < self.total_steps:
            self.log.say(f"going on at step {self.start_step + 1} of {self.total_steps}")

    def close_step(self, steps_done: int, roles: Roles, state: State) -> None:
        """Save and evaluate what is due after a step; raise InterruptedRun, all saved, once a signal came."""
        self.closed = (steps_done, roles, state)
        if self.due(steps_done, self.recipe.train.save_every):
            self._save_all(steps_done, roles, state)
        if self._owes_evaluation(steps_done):
            self._evaluate_and_save(steps_done, roles, state)
        if self.stop_signal:
            self._leave(steps_done, roles, state)

    def due(self, steps_done: int, every: int) -> bool:
        """Whether something done every `every` steps is due; always at the end, never twice."""
        return steps_done == self.total_steps or bool(every and steps_done % every == 0)

    def log_step(self, steps_done: int, images: int, losses: dict[str, float]) -> dict[str, float]:
        """Log a step; every `log_every` steps write the means and return the main ones, else nothing."""
        self.unlogged.append(losses)
        self.log.step(steps_done, images, losses["loss"])
        if not self.due(steps_done, self.recipe.train.log_every):
            return {}
        names = dict.fromkeys(name for entry in self.unlogged for name in entry)
        means = {name: _mean([e[name] for e in self.unlogged if name in e]) for name in names}
        top: dict[str, float] = {k: means.pop(k) for k in _MAIN if k in means}
        lr = max(group["lr"] for group in self.learner.optimizer.param_groups)
        self.log.metrics(steps_done, {**top, "lr": lr, "losses": means})
        self.unlogged.clear()
        return top

    def tell(self, step: int, warnings: Sequence[str], classes: Mapping[str, list[float]]) -> None:
        """Say warnings, and append what is known of each class (lists by label) to pseudo.jsonl."""
        for warning in warnings:
            self.log.say(warning)
        if classes:
            append_json(self.run / "pseudo.jsonl", {"step": step, **classes})

    def _owes_evaluation(self, steps_done: int) -> bool:
        due = bool(steps_done) and self.due(steps_done, self.recipe.train.eval_every)
        return due and bool(self.dataset.val) and self.evaluated != steps_done

    def _evaluate_and_save(self, steps_done: int, roles: Roles, state: State) -> None:
        """All roles or none: a signal cuts it off, a resumed run does it again. Keeps the best."""
        with suppress(_CutOff):
            found = {}
            for role, network in roles.items():
                images = counted(len(self.dataset.val), "validation image")
                self.log.say(f"evaluating {network_name(role, self.verb)} on {images}")
                found[role] = self._evaluate(network)
            self.evaluated = steps_done
            for role, metrics in found.items():
                self.scores[role] = metrics
                self.log.evaluation(steps_done, role, metrics, network_name(role, self.verb))
                self._keep_best(steps_done, role, roles[role], metrics)
            self._save_all(steps_done, roles, state)

    def _evaluate(self, network: SegmentationModel) -> dict[str, float]:
        def go_on(*_: int) -> None:
            if self.stop_signal:
                raise _CutOff

        go_on()
        device = self.learner.device
        return evaluate(network, self.dataset, self.recipe, device, progress=go_on).metrics

    def _save_all(self, steps_done: int, roles: Roles, state: State) -> None:
        """Save each role's last network, then the state to resume from (all networks of `state`)."""
        for role, network in roles.items():  # first: a run whose state is that of the end has all its files
            self._save(network, role, steps_done, self._file(f"last-{role}.safetensors"))
        progress = {"step": steps_done, "best": self.best, "unlogged": self.unlogged, "scores": self.scores}
        progress["evaluated"] = self.evaluated
        save_state(self._file("last.state.pt"), progress, self.learner, state)
        settle_run(self.run)  # drops what --overwrite set aside
        self.saved = steps_done

    def _save_once(self, steps_done: int, roles: Roles, state: State) -> None:
        if self.saved != steps_done:
            self._save_all(steps_done, roles, state)

    def _leave(self, steps_done: int, roles: Roles, state: State) -> None:
        self._save_once(steps_done, roles, state)
        raise self._interrupted(steps_done)

    def _interrupted(self, steps_done: int) -> InterruptedRun:
        name = signal.Signals(self.stop_signal).name
        hint = self._way_on()
        if steps_done == self.total_steps and not self._owes_evaluation(steps_done):
            hint = f"nothing was left to do; evaluate it: gdseg eval {shlex.quote(str(self.run))}"
        return InterruptedRun(f"{name} after step {steps_done}; the run is saved", self.run, hint)

    def _stopped_at_once(self) -> BaseException:
        if not self.saved:
            return KeyboardInterrupt("nothing of the run had been saved")
        return InterruptedRun(
            f"at once; the run is saved as after step {self.saved}", self.run, self._way_on()
        )

    def _way_on(self) -> str:
        if self.again:
            return self.again
        if not self._file("last.state.pt").is_file():
            return "start it again with --overwrite"
        return f"go on with: gdseg {self.verb} --resume --out {shlex.quote(str(self.run))}"

    def _keep_best(self, step: int, role: str, network: SegmentationModel, metrics: dict[str, float]) -> None:
        score = metrics[self.recipe.best_metric]
        if score != score or score <= self.best.get(role, -1.0):
            return
        overall = max(self.best.values(), default=-1.0)
        self.best[role] = score
        self._save(network, role, step, self._file(f"best-{role}.safetensors"), metrics)
        if score > overall:
            link(self._file(f"best-{role}.safetensors"), self._file("best.safetensors"))

    def _save(
        self,
        model: SegmentationModel,
        role: str,
        step: int,
        path: Path,
        metrics: dict[str, float] | None = None,
    ) -> None:
        classes, ids = self.dataset.classes, self.dataset.category_ids
        scores = metrics or self.scores.get(role, {})
        flat = {k: v for k, v in scores.items() if isinstance(v, float) and v == v}
        network = Network(model, self.recipe, classes, ids, role, step, flat, self.split_sha256)
        save_network(replace(network, table=self.dataset.table), path)

    def _file(self, name: str) -> Path:
        return self.run / "checkpoints" / name

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.stop_signal:  # the second one does not wait for the step
            raise KeyboardInterrupt
        self.stop_signal = number
        # a signal handler must not enter the console, which may be writing
        os.write(2, b"stopping once all is saved (again to stop at once) ..\n")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)

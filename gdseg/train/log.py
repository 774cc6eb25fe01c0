"""What a run says while it trains: a rich progress bar on a terminal, plain lines elsewhere, and jsonl files.

metrics.jsonl: one object a log step ({"step", "loss", "losses", "lr", ..}); eval.jsonl: one an
evaluation and role. Called by `session.py`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gdseg.errors import MachineError
from gdseg.files import cannot_write, plain, write_atomic
from gdseg.words import line_width

_MAIN = {"mask_ap": "mask AP", "box_ap": "box AP", "pq": "PQ", "pq_things": "PQ things"}
_MAIN |= {"pq_stuff": "PQ stuff", "miou": "mIoU", "pixel_accuracy": "pixel accuracy"}


class RunLog:
    """Writes the jsonl files of `run` and talks to the terminal (stderr) unless `quiet`."""

    def __init__(
        self, run: Path, total_steps: int, start_step: int, *, quiet: bool, tensorboard: bool
    ) -> None:
        self.run = run
        self.total_steps = total_steps
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet, width=line_width(sys.stderr))
        self._started, self._start_step = time.monotonic(), start_step
        self._images = 0
        self._bar: Progress | None = None
        self._main = ""
        self._board = _open_tensorboard(run) if tensorboard else None
        for name in ("metrics.jsonl", "eval.jsonl", "pseudo.jsonl"):
            forget_after(run / name, start_step)

    def __enter__(self) -> RunLog:
        if self.console.is_terminal and not self.quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self.console)
            self._task = self._bar.add_task("starting", total=self.total_steps, completed=self._start_step)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        if self._board:
            self._board.close()

    def say(self, text: str) -> None:
        """A line for the user; on a terminal it scrolls above the bar. Nothing for an empty text."""
        if not text:
            return
        self.console.print(text, highlight=False, markup=False)

    def step(self, step: int, images: int, loss: float) -> None:
        """Advance the bar: `step` steps are done, this one saw `images` images."""
        self._images += images
        if self._bar:
            self._bar.update(self._task, completed=step, description=self._status(loss))

    def metrics(self, step: int, values: dict[str, Any]) -> None:
        """Append to metrics.jsonl and, without a terminal, print a line."""
        speed = self._images / max(time.monotonic() - self._started, 1e-9)
        append_json(self.run / "metrics.jsonl", {"step": step, **values, "images_per_s": round(speed, 3)})
        if not self._bar:
            self.say(
                f"step {step}/{self.total_steps}  {self._status(values['loss'])}  {self._left(step)} left"
            )
        self._to_board(step, {k: v for k, v in values.items() if isinstance(v, float)})

    def evaluation(self, step: int, role: str, metrics: dict[str, Any], name: str) -> None:
        """Append to eval.jsonl and print the main metrics; name: what the line calls the network."""
        append_json(self.run / "eval.jsonl", {"step": step, "role": role, **metrics})
        shown = [f"{name} {_percent(metrics[key])}" for key, name in _MAIN.items() if key in metrics]
        self._main = f"  {shown[0]}" if shown else ""
        self.say(f"step {step}  {name}: {', '.join(shown)}")
        self._to_board(step, {f"{role}/{k}": v for k, v in metrics.items() if isinstance(v, float)})

    def _status(self, loss: float) -> str:
        speed = self._images / max(time.monotonic() - self._started, 1e-9)
        return f"loss {loss:.2f}{self._main}  {speed:.1f} images/s"

    def _left(self, step: int) -> str:
        spent = time.monotonic() - self._started
        seconds = spent / max(step - self._start_step, 1) * (self.total_steps - step)
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"

    def _to_board(self, step: int, values: dict[str, float]) -> None:
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)


def append_json(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON object as a line; NaN and infinity become null so that any reader can parse it.

    Raises MachineError when the disk is full.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(value)) + "\n")
    except OSError as error:
        raise cannot_write(path, error) from error


def forget_after(path: Path, step: int) -> None:
    """Drop the lines of a jsonl file beyond `step`, and a last line cut off by a crash."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    write_atomic(path, "".join(line + "\n" for line in kept))


def _percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def _open_tensorboard(run: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MachineError("TensorBoard is not installed", hint="pip install 'gdseg[tensorboard]'") from error
    return SummaryWriter(str(run / "tensorboard"))

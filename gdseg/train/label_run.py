"""Label images that are not labelled yet, in this process or in several, and write each entry to the parts.

A process on a CPU computes with one thread, so that labels are the same, to the last digit, by any number of
processes. Called by cli/pseudo_label.py.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from gdseg.errors import InterruptedRun, MachineError
from gdseg.predict import Predictor
from gdseg.train.label_entry import Entry, Order
from gdseg.train.label_parts import WHOLE, Parts, Shard
from gdseg.words import counted

_AHEAD = 2  # images that a process is given at a time, so that it need not wait
_MOST_JOBS, _IMAGES_A_JOB = 8, 2

Task = tuple[int, Path, bool]  # number, image, whether it will be shown


@dataclass(frozen=True)
class Images:
    """All images of the command, those for the contact sheet, and which of them are this shard's."""

    paths: Sequence[Path]
    shown: frozenset[int]
    shard: Shard = WHOLE

    @property
    def numbers(self) -> range:
        """The numbers of the shard's images."""
        return range(self.shard[0] - 1, len(self.paths), self.shard[1])


def number_of_jobs(asked: int | None, images: int, device: torch.device) -> int:
    """Processes to use: as asked, else on a CPU one for each thread but few for few images, else one."""
    if asked is not None:
        return max(1, min(asked, images))
    if device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), _MOST_JOBS, images // _IMAGES_A_JOB))


def label_all(
    order: Order,
    images: Images,
    parts: Parts,
    *,
    jobs: int = 1,
    predictor: Predictor | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
    skipped: Callable[[Path, str], None] = lambda path, why: None,
    found: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Label the shard's images that `parts` lack; `tell` is called after each, `skipped` for unreadable ones.

    found: called first, with how many `parts` have already, if any.

    predictor: the network, where it is there already. Raises InterruptedRun for Ctrl-C and SIGTERM,
    MachineError where a process dies, and the first error of one.
    """
    waiting = [n for n in images.numbers if not parts.done(n)]
    done = len(images.numbers) - len(waiting)
    if done:
        found(done, len(images.numbers))
    tasks = ((n, images.paths[n], n in images.shown) for n in waiting)
    try:
        with _sigterm_as_ctrl_c(), contextlib.closing(_labelled(order, tasks, jobs, predictor)) as entries:
            for entry in entries:
                parts.append(entry)
                done += 1
                if "failed" in entry:
                    skipped(images.paths[entry["n"]], entry["failed"])
                tell(done, len(images.numbers))
    except KeyboardInterrupt as stop:
        what = f"{done} of {counted(len(images.numbers), 'image')} labelled"
        raise InterruptedRun(what, parts.folder, "go on with the same command") from stop


def _labelled(
    order: Order, tasks: Iterator[Task], jobs: int, predictor: Predictor | None
) -> Generator[Entry]:
    if jobs > 1:
        yield from _side_by_side(order, tasks, jobs)
        return
    threads = torch.get_num_threads()
    try:
        _use_one_thread(order)
        labeller = order.labeller(predictor)
        for n, path, shown in tasks:
            yield labeller.entry(n, path, shown=shown)
    finally:
        torch.set_num_threads(threads)


def _use_one_thread(order: Order) -> None:
    if order.device == "cpu":
        torch.set_num_threads(1)


def _side_by_side(order: Order, tasks: Iterator[Task], jobs: int) -> Iterator[Entry]:
    """Entries in the order they are made; whatever ends this loop ends the processes."""
    context = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU
    running: dict[Any, Any] = {}
    busy: dict[Any, int] = {}
    try:
        for _ in range(jobs):
            ours, theirs = context.Pipe()
            process = context.Process(target=_child, args=(theirs, order), daemon=True)
            process.start()
            theirs.close()  # so that a process that dies ends our waiting
            running[ours], busy[ours] = process, 0
        for connection in running:
            busy[connection] += _give(connection, tasks, _AHEAD)
        while any(busy.values()):
            for ready in wait([connection for connection, count in busy.items() if count]):
                entry = _received(ready)
                busy[ready] += _give(ready, tasks, 1) - 1
                yield entry
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def _give(connection: Any, tasks: Iterator[Task], count: int) -> int:
    """Send at most `count` tasks; returns how many there were."""
    given = [*islice(tasks, count)]
    try:
        for task in given:
            connection.send(task)
    except OSError:  # it died: its answer says so
        return count
    return len(given)


def _received(connection: Any) -> Entry:
    try:
        answer = connection.recv()
    except (EOFError, OSError) as error:
        what = "a labelling process died (out of memory?)"
        raise MachineError(what, hint="go on with the same command and fewer --jobs") from error
    if isinstance(answer, Exception):
        raise answer
    return dict(answer)


def _child(connection: Connection, order: Order) -> None:
    """Answer each task with its entry, or with the error that ends it; the parent's end ends this too."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the parent alone
    _use_one_thread(order)
    try:
        labeller = order.labeller()
        while True:
            n, path, shown = connection.recv()
            connection.send(labeller.entry(n, path, shown=shown))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        connection.send(error)


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only it may change signals
        yield
        return
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)

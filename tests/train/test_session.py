"""Signals at awkward moments, failures while saving, and what a resumed run says."""

import json
import shlex
import signal

import pytest
import torch

from gdseg.errors import InterruptedRun, UsageError
from gdseg.train import session
from gdseg.train.engine import Learner
from gdseg.train.log import RunLog
from gdseg.train.pretrain import pretrain

CPU = torch.device("cpu")


def evaluated(run):
    rows = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    return [(row["step"], row["role"]) for row in rows]


def signal_before(monkeypatch, owner, name, call=1):
    """Send SIGTERM as `owner.name` is called for the `call`th time."""
    original, calls = getattr(owner, name), []

    def calling(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, calling)


def test_a_signal_while_a_finished_run_shuts_down_is_not_swallowed(tiny_recipe, tmp_path, monkeypatch):
    signal_before(monkeypatch, RunLog, "__exit__")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InterruptedRun, match="SIGTERM after step 4; the run is saved") as stopped:
        pretrain(tiny_recipe(), tmp_path / "run", CPU, quiet=True)
    assert "nothing was left to do" in str(stopped.value)
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(UsageError, match="the run is finished"):
        pretrain(tiny_recipe(), tmp_path / "run", CPU, resume=True, quiet=True)


def test_a_failure_under_way_is_not_replaced_by_the_signal(tiny_recipe, tmp_path, monkeypatch):
    def fails(*_):
        signal.raise_signal(signal.SIGTERM)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session.Session, "close_step", fails)
    with pytest.raises(OSError, match="No space left"):
        pretrain(tiny_recipe(), tmp_path / "run", CPU, quiet=True)


def test_an_evaluation_that_was_not_saved_is_logged_once(tiny_recipe, tmp_path, monkeypatch):
    recipe, run = tiny_recipe("maskdino", "train.eval_every=2"), tmp_path / "run"
    keep, kept = session.Session._keep_best, []

    def fails_at_the_end(*arguments):
        kept.append(arguments)
        if len(kept) == 2:
            raise OSError(28, "No space left on device")
        keep(*arguments)

    monkeypatch.setattr(session.Session, "_keep_best", fails_at_the_end)
    with pytest.raises(OSError, match="No space left"):
        pretrain(recipe, run, CPU, quiet=True)
    assert evaluated(run) == [(2, "teacher"), (4, "teacher")]
    pretrain(recipe, run, CPU, resume=True, quiet=True)
    assert len(kept) == 3
    assert evaluated(run) == [(2, "teacher"), (4, "teacher")]


@pytest.mark.parametrize("every", [0, 2])
def test_a_signal_on_a_step_that_is_saved_anyway_saves_once(tiny_recipe, tmp_path, monkeypatch, every):
    saved, save = [], session.save_state

    def saving(path, progress, *rest):
        saved.append(progress["step"])
        save(path, progress, *rest)

    monkeypatch.setattr(session, "save_state", saving)
    signal_before(monkeypatch, Learner, "step", call=2)
    with pytest.raises(InterruptedRun, match="after step 2"):
        pretrain(tiny_recipe("maskdino", f"train.save_every={every}"), tmp_path / "run", CPU, quiet=True)
    assert saved == [2]


def test_a_resumed_run_says_what_it_does_in_order_and_nothing_for_a_new_start(
    tiny_recipe, tmp_path, monkeypatch, capsys
):
    recipe, run = tiny_recipe("maskdino", "train.eval_every=2"), tmp_path / "my run"
    with monkeypatch.context() as cut:
        signal_before(cut, Learner, "step", call=2)
        with pytest.raises(InterruptedRun):
            pretrain(recipe, run, CPU)
    assert "advice: " in capsys.readouterr().err
    pretrain(recipe, run, CPU, resume=True)
    said = capsys.readouterr().err
    assert "advice: " not in said
    order = ["evaluation after step 2 of 4", "step 2  teacher:", "going on at step 3 of 4", "step 3/4"]
    places = [said.index(words) for words in order]
    assert places == sorted(places)
    with pytest.raises(UsageError) as finished:
        pretrain(recipe, run, CPU, resume=True)
    assert f"gdseg eval {shlex.quote(str(run))}" in str(finished.value)
    assert "'" in finished.value.hint

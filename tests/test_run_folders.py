"""Run directories: --overwrite sets the old run aside; whatever is killed when, none is lost or hidden."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from gdseg.cli.run_options import resumed_run
from gdseg.errors import CheckpointError, UsageError
from gdseg.runs import find_checkpoint, prepare_run, run_of, settle_run


def contents(run):
    return {p.relative_to(run): p.read_text() for p in run.rglob("*") if p.is_file()}


def saved_run(folder, text):
    """A run as `settle_run` knows it; its files hold `text`."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"verb": "pretrain", "text": text}))
    for name in ("recipe.yaml", "checkpoints/last-teacher.safetensors", "checkpoints/last.state.pt"):
        (folder / name).write_text(text)
    return contents(folder)


def test_a_saved_run_replaces_the_older_one_also_after_a_kill(tmp_path):
    new = saved_run(tmp_path, "new")
    saved_run(tmp_path / ".replaced", "old")
    prepare_run(tmp_path, overwrite=True)
    assert contents(tmp_path / ".replaced") == new
    assert settle_run(tmp_path)
    assert contents(tmp_path) == new


def test_a_kill_before_the_first_save_hides_nothing(tmp_path):
    run = tmp_path / "run"
    old = saved_run(run, "old")
    prepare_run(run, overwrite=True)
    (run / "recipe.yaml").write_text("new")
    with pytest.raises(CheckpointError, match=r"\.replaced; --resume puts it back"):
        find_checkpoint(run)
    prepare_run(run, overwrite=True)  # again
    assert contents(run / ".replaced") == old
    assert resumed_run("pretrain", {"out": run}, []) == run
    assert contents(run) == old


class Killed(BaseException):
    """What no handler in the process sees."""


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("call", range(1, 8))
def test_a_kill_while_a_run_is_moved_loses_nothing(tmp_path, monkeypatch, call, back):
    old, calls = saved_run(tmp_path, "old"), []
    if back:
        prepare_run(tmp_path, overwrite=True)
        (tmp_path / "recipe.yaml").write_text("new")
    with monkeypatch.context() as patch, suppress(Killed):
        for owner, name in ((Path, "rename"), (Path, "unlink"), (shutil, "rmtree"), (Path, "rmdir")):
            patch.setattr(owner, name, killed_at(call, calls, getattr(owner, name)))
        settle_run(tmp_path) if back else prepare_run(tmp_path, overwrite=True)
    settle_run(tmp_path)
    assert contents(tmp_path) == old
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "recipe.yaml", "checkpoints"}


def killed_at(call, calls, original):
    """`original`, but the `call`th of all calls, and all that a handler then tries, ends the process."""

    def calling(*arguments, **options):
        calls.append(original)
        if len(calls) >= call:
            raise Killed
        return original(*arguments, **options)

    return calling


def test_a_folder_that_is_no_run_keeps_what_it_calls_replaced(tmp_path):
    (tmp_path / ".replaced").mkdir()
    (tmp_path / ".replaced" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="replaces runs only"):
        prepare_run(tmp_path, overwrite=True)
    assert contents(tmp_path) == {Path(".replaced/mine.txt"): "mine"}


def test_a_network_lies_in_a_run_only_below_checkpoints(tmp_path):
    assert run_of(tmp_path / "run" / "checkpoints" / "best.safetensors") == (tmp_path / "run").resolve()
    assert run_of(tmp_path / "run" / "best.safetensors") is None
    assert run_of(Path("/best.safetensors")) is None

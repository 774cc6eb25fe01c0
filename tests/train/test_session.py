"""Signals at awkward moments, broken images, failures while saving, and what a resumed run says."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gdseg.data import loader
from gdseg.errors import CheckpointError, DataError, DivergedError, InterruptedRun, MachineError, UsageError
from gdseg.models.checkpoint import load_network
from gdseg.recipe_yaml import dump_recipe
from gdseg.report.run import open_run
from gdseg.report.setting import setting
from gdseg.runs import find_checkpoint, prepare_run
from gdseg.train import session
from gdseg.train.budget import run_plan
from gdseg.train.budget_plan import make_plan
from gdseg.train.distill import distill
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


def spoiled(data, monkeypatch, image, name="train_sample"):
    """Truncate the file that is read `image`-th (from 1) of those that `name` reads; returns how to mend it."""
    original, read, whole = getattr(loader, name), [], {}

    def reading(record, *arguments, **options):
        read.append(record.path)
        if len(read) == image:
            whole[record.path] = record.path.read_bytes()
            record.path.write_bytes(whole[record.path][:50])
        return original(record, *arguments, **options)

    def mend():
        monkeypatch.undo()
        for path, content in whole.items():
            path.write_bytes(content)

    monkeypatch.setattr(loader, name, reading)
    return mend


@pytest.fixture
def own_recipe(tiny_recipe, tiny_data, tmp_path):
    """`tiny_recipe` on a copy of the data that a test may spoil."""
    data = shutil.copytree(tiny_data, tmp_path / "data")
    return data, lambda *changes: tiny_recipe("maskdino", f"data.root={data}", *changes)


def same_runs(run, other):
    for name in ("metrics.jsonl", "eval.jsonl", "pseudo.jsonl"):
        rows = [(r / name).read_text().splitlines() if (r / name).is_file() else [] for r in (run, other)]
        kept = [[{**json.loads(row), "images_per_s": 0} for row in rows] for rows in rows]
        assert kept[0] == kept[1], name
    for file in (run / "checkpoints").glob("last-*.safetensors"):
        a, b = load_file(file), load_file(other / "checkpoints" / file.name)
        assert all(torch.equal(a[key], b[key]) for key in a), file.name


@pytest.mark.parametrize(("name", "image", "done"), [("train_sample", 7, 3), ("eval_sample", 2, 2)])
def test_a_run_stopped_by_a_broken_image_goes_on_once_it_is_mended(
    own_recipe, tmp_path, monkeypatch, name, image, done
):
    """In training: the first image of step 4; in the evaluation after step 2."""
    data, recipe = own_recipe
    recipe, whole, cut = (
        recipe("train.ema_decay=0.9", "train.eval_every=2"),
        tmp_path / "whole",
        tmp_path / "cut",
    )
    pretrain(recipe, whole, CPU, quiet=True)
    mend = spoiled(data, monkeypatch, image, name)
    with pytest.raises(DataError, match="cannot read the image") as broken:
        pretrain(recipe, cut, CPU, quiet=True)
    assert broken.value.hint.endswith(
        f"with the file mended, go on with: gdseg pretrain --resume --out {cut}"
    )
    assert torch.load(cut / "checkpoints/last.state.pt", weights_only=True)["step"] == done
    with pytest.raises(DataError, match="cannot read the image"):  # nothing is lost by going on too soon
        pretrain(recipe, cut, CPU, resume=True, quiet=True)
    mend()
    pretrain(recipe, cut, CPU, resume=True, quiet=True)
    same_runs(cut, whole)


@pytest.mark.parametrize(("image", "done"), [(5, 1), (17, 4)])
def test_a_distillation_stopped_by_a_broken_image_goes_on_once_it_is_mended(
    own_recipe, tmp_path, monkeypatch, image, done
):
    """During burn-in and after it: two labelled and two unlabelled images a step, the labelled ones first."""
    data, recipe = own_recipe
    recipe, whole, cut = recipe("distill.thresholds=ema"), tmp_path / "whole", tmp_path / "cut"
    pretrain(recipe, tmp_path / "T", CPU, quiet=True)
    teacher = find_checkpoint(tmp_path / "T", "teacher")
    distill(recipe, whole, teacher, CPU, quiet=True)
    mend = spoiled(data, monkeypatch, image)
    with pytest.raises(DataError) as broken:
        distill(recipe, cut, teacher, CPU, quiet=True)
    assert f"go on with: gdseg distill --resume --out {cut}" in broken.value.hint
    assert torch.load(cut / "checkpoints/last.state.pt", weights_only=True)["step"] == done
    mend()
    distill(recipe, cut, teacher, CPU, resume=True, quiet=True)
    same_runs(cut, whole)


def test_a_broken_first_image_leaves_nothing_to_resume_from_and_says_so(own_recipe, tmp_path, monkeypatch):
    data, recipe = own_recipe
    mend = spoiled(data, monkeypatch, 1)
    with pytest.raises(DataError) as broken:
        pretrain(recipe(), tmp_path / "run", CPU, quiet=True)
    assert broken.value.hint.endswith("with the file mended, start it again with --overwrite")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    mend()
    with pytest.raises(CheckpointError, match="nothing to resume from") as nothing:
        pretrain(recipe(), tmp_path / "run", CPU, resume=True, quiet=True)
    assert nothing.value.hint == "start it again with --overwrite"
    pretrain(recipe(), tmp_path / "run", CPU, overwrite=True, quiet=True)


def test_an_experiments_failure_advises_what_its_command_has(own_recipe, tmp_path, monkeypatch):
    data, recipe = own_recipe
    plan = make_plan({"recipe": recipe("train.save_every=0")}, [0.5], [0], ["teacher"])
    for image in (1, 5):  # before the first save, and after it
        mend = spoiled(data, monkeypatch, image)
        with pytest.raises(DataError) as broken:
            run_plan(plan, tmp_path / "b", CPU, quiet=True)
        assert broken.value.hint.endswith("with the file mended, give the same command again")
        assert "--" not in broken.value.hint
        mend()
    run_plan(plan, tmp_path / "b", CPU, quiet=True)


def test_the_first_command_stays_and_later_ones_are_listed(tiny_recipe, tmp_path, monkeypatch):
    recipe, run = tiny_recipe("maskdino", "train.steps=3", "train.save_every=1"), tmp_path / "run"
    for number, word in enumerate(("--out 'my runs'", "--resume", "--resume -q")):
        monkeypatch.setattr(sys, "argv", ["gdseg", "pretrain", *shlex.split(word)])
        with monkeypatch.context() as patch:
            signal_before(patch, Learner, "step")
            with pytest.raises(InterruptedRun):
                pretrain(recipe, run, CPU, resume=number > 0, quiet=True)
        about = json.loads((run / "run.json").read_text())
        assert about["command"] == "gdseg pretrain --out 'my runs'"
        assert about["started"] <= min((entry["started"] for entry in about.get("resumed", ())), default="9")
    assert [entry["command"] for entry in about["resumed"]] == [
        "gdseg pretrain --resume",
        "gdseg pretrain --resume -q",
    ]
    assert about["resumed"][0]["versions"] == about["versions"]
    facts = dict(setting(open_run(run)).blocks[0].rows[::-1])  # of several rows of a name, the first
    assert facts["command"] == "gdseg pretrain --out 'my runs'"
    assert facts["resumed"].endswith(": gdseg pretrain --resume")


def test_a_second_signal_says_which_step_is_saved(tiny_recipe, tmp_path, monkeypatch):
    def twice(self, number, parts):
        for _ in range(2 * (number == 3)):
            signal.raise_signal(signal.SIGINT)
        return step(self, number, parts)

    recipe, run, step = tiny_recipe("maskdino", "train.save_every=2"), tmp_path / "run", Learner.step
    monkeypatch.setattr(Learner, "step", twice)
    with pytest.raises(InterruptedRun, match="at once; the run is saved as after step 2") as stopped:
        pretrain(recipe, run, CPU, quiet=True)
    assert stopped.value.hint == f"go on with: gdseg pretrain --resume --out {run}"
    assert torch.load(run / "checkpoints/last.state.pt", weights_only=True)["step"] == 2


def test_a_signal_in_the_step_that_diverges_ends_an_experiment_and_is_no_saved_run(
    tiny_recipe, tmp_path, monkeypatch
):
    def diverges(*_):
        signal.raise_signal(signal.SIGINT)
        raise DivergedError("NaN")

    monkeypatch.setattr(Learner, "step", diverges)
    with pytest.raises(DivergedError):  # not "interrupted", which means saved
        pretrain(tiny_recipe(), tmp_path / "run", CPU, quiet=True)
    plan = make_plan({"recipe": tiny_recipe()}, [0.5], [0], ["teacher", "labels"])
    with pytest.raises(InterruptedRun, match="0 of 2 runs finished"):
        run_plan(plan, tmp_path / "b", CPU, quiet=True)
    results = [json.loads(path.read_text()) for path in tmp_path.glob("b/runs/*/result.json")]
    assert [result["diverged"] for result in results] == ["NaN"]  # which is kept


def contents(run):
    return {p.relative_to(run): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_the_run_to_be_replaced_is_kept_until_the_new_one_has_saved(own_recipe, tmp_path, monkeypatch):
    (data, recipe), run = own_recipe, tmp_path / "run"
    pretrain(recipe("train.steps=1"), run, CPU, quiet=True)
    old = contents(run)

    def diverges(*_):
        raise DivergedError("NaN")

    def fails(error, message, *changes):
        with pytest.raises(error) as failed:
            pretrain(recipe(*changes), run, CPU, overwrite=True, quiet=True)
        assert contents(run) == old
        assert message in str(failed.value)

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not installed
        fails(MachineError, "the run that was there is kept", "train.tensorboard=true")
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", lambda *_: [signal.raise_signal(signal.SIGINT) for _ in "12"])
        fails(KeyboardInterrupt, "nothing of the run had been saved")  # the second one does not wait
    mend = spoiled(data, monkeypatch, 1)
    fails(DataError, "the run that was there is kept")
    mend()
    prepare_run(run, overwrite=True)  # by a process that was then killed
    (run / "run.json").write_text('{"verb": "pretrain"}')
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", diverges)
        fails(DivergedError, "the run that was there is kept")
    pretrain(recipe(), run, CPU, overwrite=True, quiet=True)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == recipe().train.steps > 1
    assert set(contents(run)) == set(old)


def test_a_resumed_run_that_fails_is_kept_beside_an_older_one(own_recipe, tmp_path, monkeypatch):
    (_, recipe), run = own_recipe, tmp_path / "run"
    step = Learner.step

    def diverges(self, number, parts):
        if number == 1:
            raise DivergedError("NaN")
        return step(self, number, parts)

    monkeypatch.setattr(Learner, "step", diverges)
    with pytest.raises(DivergedError):
        pretrain(recipe("train.save_every=1"), run, CPU, quiet=True)
    new = contents(run / "checkpoints")
    assert Path("last.state.pt") in new
    shutil.copytree(run, run / ".replaced")  # as if it had been killed right after saving
    with pytest.raises(DivergedError):
        pretrain(recipe("train.save_every=1"), run, CPU, resume=True, quiet=True)
    assert contents(run / "checkpoints") == new
    assert not (run / ".replaced").exists()


def test_weights_that_diverged_are_not_saved(tiny_recipe, tmp_path, monkeypatch):
    def diverges(self, number, parts):
        if number == 2:
            raise DivergedError("NaN")
        return step(self, number, parts)

    step = Learner.step
    monkeypatch.setattr(Learner, "step", diverges)
    with pytest.raises(DivergedError):
        pretrain(tiny_recipe(), tmp_path / "run", CPU, quiet=True)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


FULL_AT = """
import resource, sys, torch
from pathlib import Path
from gdseg.train.pretrain import pretrain
from gdseg.recipe_yaml import load_recipe
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
pretrain(load_recipe(sys.argv[1]), Path(sys.argv[3]), torch.device("cpu"), quiet=True, resume=len(sys.argv) > 4)
"""


@pytest.mark.parametrize("limit", [100, 20_000])
def test_a_limit_on_file_sizes_is_told_in_words_and_the_advice_works(tiny_recipe, tmp_path, limit):
    """The smaller one fails at the records of the run, the other at the first save."""
    (tmp_path / "r.yaml").write_text(dump_recipe(tiny_recipe("maskdino", "train.save_every=2")))
    command = [sys.executable, "-c", FULL_AT, tmp_path / "r.yaml", str(limit), tmp_path / "run"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120).stderr
    last = said[said.rindex("MachineError: ") :]
    assert "ulimit -f" in last
    assert "is kept" not in last
    assert "inline_container" not in last
    assert "resume" not in last
    assert ("start it again with --overwrite" in last) == (limit > 100)
    pretrain(tiny_recipe(), tmp_path / "run", CPU, overwrite=True, quiet=True)


def test_a_full_disk_says_what_can_be_done_with_what_is_there(tiny_recipe, tmp_path, monkeypatch):
    """Full at the second save, and then for the log too: the first failure is told."""
    recipe, run, saved = tiny_recipe("maskdino", "train.save_every=2"), tmp_path / "run", []
    full = OSError(28, "No space left on device")

    def save(state, path):
        saved.append(path)
        if len(saved) == 2:
            monkeypatch.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(full))
            raise full
        real(state, path)

    real = torch.save
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(MachineError, match="cannot write: No space left on device") as told:
        pretrain(recipe, run, CPU, quiet=True)
    monkeypatch.undo()
    assert told.value.where.endswith("last.state.pt")
    way = (
        f"free some space; what was there is kept; that done, go on with: gdseg pretrain --resume --out {run}"
    )
    assert told.value.hint == way
    pretrain(recipe, run, CPU, resume=True, quiet=True)


def test_a_run_whose_networks_could_not_be_saved_at_the_end_is_not_finished(
    tiny_recipe, tmp_path, monkeypatch
):
    recipe, run = tiny_recipe("maskdino", "data.val=none", "train.save_every=2"), tmp_path / "run"
    save = session.save_network

    def full(network, path):
        if network.step == 4:
            raise MachineError("cannot write: No space left on device", path, "free some space")
        save(network, path)

    monkeypatch.setattr(session, "save_network", full)
    with pytest.raises(MachineError):
        pretrain(recipe, run, CPU, quiet=True)
    monkeypatch.undo()
    pretrain(recipe, run, CPU, resume=True, quiet=True)
    assert load_network(find_checkpoint(run, "teacher")).step == 4

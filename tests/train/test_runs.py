"""Whole runs on tiny data: files, exact resume, the teacher's timeline, collapse, full disk."""

import json
import shutil
import signal

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from gdseg.errors import CheckpointError, DataError, DivergedError, InterruptedRun, MachineError, UsageError
from gdseg.losses.boxes import masks_to_boxes_cxcywh
from gdseg.models.checkpoint import load_network
from gdseg.models.model import build_model
from gdseg.recipe_yaml import load_recipe
from gdseg.runs import find_checkpoint
from gdseg.structures import Targets
from gdseg.train import checkpoint, engine, session
from gdseg.train import distill as distill_module
from gdseg.train import teacher as teacher_module
from gdseg.train.distill import distill
from gdseg.train.engine import Learner
from gdseg.train.plan import describe
from gdseg.train.pretrain import pretrain

CPU = torch.device("cpu")


def log(run, name="metrics.jsonl"):
    """Log entries without what depends on the clock."""
    entries = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [{k: v for k, v in e.items() if k != "images_per_s"} for e in entries]


def same_networks(run, other):
    files = sorted(p.name for p in (run / "checkpoints").glob("last-*.safetensors"))
    assert files == sorted(p.name for p in (other / "checkpoints").glob("last-*.safetensors"))
    for name in files:
        a, b = (load_file(r / "checkpoints" / name) for r in (run, other))
        assert all(torch.equal(a[key], b[key]) for key in a), name


def interrupt_in(monkeypatch, step):
    """Send SIGTERM during step number `step`, once."""
    original, sent = Learner.step, []

    def stepping(self, number, parts):
        if number == step and not sent:
            sent.append(True)
            signal.raise_signal(signal.SIGTERM)
        return original(self, number, parts)

    monkeypatch.setattr(Learner, "step", stepping)


def interrupt_evaluation(monkeypatch, step):
    """Send SIGTERM after the first image of the evaluation after `step` steps."""
    original, asked = session.evaluate, []

    def evaluating(*arguments, progress):
        def first(done, count):
            if 2 * len(asked) == step and done == 1:
                signal.raise_signal(signal.SIGTERM)
            progress(done, count)

        asked.append(1)
        return original(*arguments, progress=first)

    monkeypatch.setattr(session, "evaluate", evaluating)


@pytest.fixture
def teacher(tiny_recipe, tmp_path):
    run = tmp_path / "teacher"
    pretrain(tiny_recipe("maskdino", "train.steps=2"), run, CPU, quiet=True)
    return find_checkpoint(run, "teacher")


@pytest.mark.parametrize("decoder", ["maskdino", "mask2former"])
def test_pretrain_leaves_a_complete_run(tiny_recipe, tmp_path, decoder):
    run = tmp_path / "run"
    scores = pretrain(tiny_recipe(decoder, "train.eval_every=2"), run, CPU, quiet=True)
    assert {p.name for p in run.iterdir()} >= {
        "recipe.yaml",
        "run.json",
        "split.json",
        "metrics.jsonl",
        "eval.jsonl",
    }
    about = json.loads((run / "run.json").read_text())
    assert (about["verb"], about["labelled"]) == ("pretrain", 6)
    assert about["images"] == {"train": 12, "val": 4}
    spent = log(run, "time.jsonl")[0]
    assert 50 < spent["peak_rss_mib"] < 100_000
    assert "peak_cuda_mib" not in spent
    assert [e["step"] for e in log(run)] == [1, 2, 3, 4]
    assert [(e["step"], e["role"]) for e in log(run, "eval.jsonl")] == [(2, "teacher"), (4, "teacher")]
    network = load_network(find_checkpoint(run, "teacher"))
    assert network.metrics["mask_ap"] == pytest.approx(max(e["mask_ap"] for e in log(run, "eval.jsonl")))
    assert set(scores) == {"teacher"}


@pytest.mark.parametrize("decoder", ["maskdino", "mask2former"])
def test_an_interrupted_pretrain_is_the_uninterrupted_one(tiny_recipe, tmp_path, monkeypatch, decoder):
    recipe = tiny_recipe(decoder, "train.ema_decay=0.9")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pretrain(recipe, whole, CPU, quiet=True)
    interrupt_in(monkeypatch, 1)
    with pytest.raises(InterruptedRun, match="SIGTERM after step 2") as stopped:
        pretrain(recipe, cut, CPU, quiet=True)
    assert stopped.value.exit_code == 130
    assert f"gdseg pretrain --resume --out {cut}" in str(stopped.value)
    pretrain(recipe, cut, CPU, resume=True, quiet=True)
    assert log(cut) == log(whole)  # losses equal to the last bit
    same_networks(cut, whole)


@pytest.mark.parametrize("step", [0, 4])
def test_an_interrupted_distill_is_the_uninterrupted_one(
    tiny_recipe, tmp_path, monkeypatch, teacher, step, capsys
):
    """Interrupted during burn-in and after it."""
    recipe = tiny_recipe("maskdino", "augment.weak_colour=false")  # which is advised
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    distill(recipe, whole, teacher, CPU, quiet=True)
    interrupt_in(monkeypatch, step)
    with pytest.raises(InterruptedRun):
        distill(recipe, cut, teacher, CPU)
    assert "advice: " in capsys.readouterr().err
    distill(recipe, cut, teacher, CPU, resume=True)
    said = capsys.readouterr().err
    assert "advice: " not in said
    assert "evaluating student on 4 validation images" in said
    assert log(cut) == log(whole)
    same_networks(cut, whole)


def test_validation_images_are_not_trained_on_and_a_run_keeps_its_unlabelled_images(
    tiny_recipe, tiny_data, tmp_path, monkeypatch, teacher, capsys
):
    more, run = tmp_path / "more", tmp_path / "run"
    shutil.copytree(tiny_data / "val", more)
    Image.new("RGB", (64, 64), "red").save(more / "a.png")
    recipe = tiny_recipe("maskdino", f"data.unlabelled=[{more}]")
    interrupt_in(monkeypatch, 2)
    with pytest.raises(InterruptedRun):
        distill(recipe, run, teacher, CPU)
    assert json.loads((run / "run.json").read_text())["unlabelled"] == 13
    assert "4 files among the unlabelled images equal validation images: left out" in capsys.readouterr().err
    shutil.copy(more / "a.png", more / "new.png")
    with pytest.raises(DataError, match="14 unlabelled images now, the run began with 13"):
        distill(recipe, run, teacher, CPU, resume=True, quiet=True)
    (more / "a.png").unlink()  # now at another place among them
    with pytest.raises(DataError, match="names or sizes of the unlabelled images"):
        distill(recipe, run, teacher, CPU, resume=True, quiet=True)
    (more / "new.png").rename(more / "a.png")
    distill(recipe, run, teacher, CPU, resume=True, quiet=True)


def test_the_pretrained_teacher_may_be_gone_once_burn_in_is_over(tiny_recipe, tmp_path, monkeypatch, teacher):
    recipe = tiny_recipe("maskdino", "decoder.queries=auto", "distill.student_init=teacher")
    whole, during, after = tmp_path / "whole", tmp_path / "during", tmp_path / "after"
    distill(recipe, whole, teacher, CPU, quiet=True)
    for run, step in ((during, 0), (after, 4)):  # burn-in takes 2 steps
        with monkeypatch.context() as patch:
            interrupt_in(patch, step)
            with pytest.raises(InterruptedRun):
                distill(recipe, run, teacher, CPU, quiet=True)
    moved = teacher.rename(tmp_path / "away.safetensors")
    settled = load_recipe(str(after / "recipe.yaml"), [])
    distill(settled, after, None, CPU, resume=True, quiet=True)
    same_networks(after, whole)
    told, first = (json.loads((run / "run.json").read_text()) for run in (after, whole))
    assert told["teacher"] == str(teacher)
    assert told["teacher_sha256"] == first["teacher_sha256"]
    with pytest.raises(CheckpointError, match="the run's teacher is gone"):
        distill(settled, during, None, CPU, resume=True, quiet=True)
    moved.rename(teacher)
    distill(settled, during, None, CPU, resume=True, quiet=True)
    same_networks(during, whole)


@pytest.mark.parametrize("when", ["step", "evaluation"])
@pytest.mark.parametrize("last", [True, False])
def test_a_signal_at_an_evaluation_saves_and_the_resumed_run_evaluates(
    tiny_recipe, tmp_path, monkeypatch, when, last, capsys
):
    """In the last step before it or while it runs, at the end of the run or halfway."""
    recipe, done = tiny_recipe("maskdino", "train.eval_every=2"), 4 if last else 2
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    scores = pretrain(recipe, whole, CPU, quiet=True)
    if when == "step":
        interrupt_in(monkeypatch, done - 1)
    else:
        interrupt_evaluation(monkeypatch, done)
    with pytest.raises(InterruptedRun, match=f"SIGTERM after step {done}; the run is saved") as stopped:
        pretrain(recipe, cut, CPU, quiet=True)
    assert f"gdseg pretrain --resume --out {cut}" in str(stopped.value)
    assert (cut / "eval.jsonl").is_file() == last  # that after step 2
    monkeypatch.undo()
    assert pretrain(recipe, cut, CPU, resume=True) == scores
    said = capsys.readouterr().err
    assert f"going on with the evaluation after step {done} of 4" in said
    assert ("going on at step 3 of 4" in said) != last
    assert log(cut, "eval.jsonl") == log(whole, "eval.jsonl")
    assert log(cut) == log(whole)
    same_networks(cut, whole)


def test_a_signal_when_all_is_done_says_that_nothing_is_left(tiny_recipe, tmp_path, monkeypatch):
    interrupt_in(monkeypatch, 3)
    with pytest.raises(InterruptedRun, match="SIGTERM after step 4") as stopped:
        pretrain(tiny_recipe("maskdino", "data.val=none"), tmp_path / "run", CPU, quiet=True)
    assert "nothing was left to do" in str(stopped.value)


def test_the_students_learning_rate_is_a_share_of_the_teachers(tiny_recipe, tmp_path, teacher):
    rates = []
    for factor in (1.0, 0.25):
        recipe = tiny_recipe("maskdino", f"distill.lr_factor={factor}", "train.log_every=1")
        distill(recipe, tmp_path / f"run{factor}", teacher, CPU, quiet=True)
        rates.append([entry["lr"] for entry in log(tmp_path / f"run{factor}")])
    assert rates[1] == pytest.approx([0.25 * rate for rate in rates[0]])
    assert load_recipe(tmp_path / "run0.25" / "recipe.yaml").train.lr == recipe.train.lr


def test_the_teacher_is_frozen_then_replaced_then_an_average(tiny_recipe, tmp_path, teacher, monkeypatch):
    """arXiv 2308.02668 §3.2, with burn-in 2: which weights label at each step."""
    recipe = tiny_recipe("maskdino", "distill.ema_decay=0.5", "distill.steps=5")
    labelling, students = [], []

    def watch(model, batch, recipe):
        labelling.append({k: v.clone() for k, v in model.state_dict().items()})
        return forward(model, batch, recipe)

    def stepping(self, number, parts):
        students.append({k: v.clone() for k, v in self.model.state_dict().items()})
        return step(self, number, parts)

    forward, step = teacher_module.forward, Learner.step
    monkeypatch.setattr(teacher_module, "forward", watch)
    monkeypatch.setattr(Learner, "step", stepping)
    distill(recipe, tmp_path / "run", teacher, CPU, quiet=True)
    guide = load_file(teacher)
    expected = students[2]
    for number, used in enumerate(labelling):
        if number > 2:
            expected = {k: (v.double() + students[number][k]) / 2 for k, v in expected.items()}
        for key, value in used.items():
            if value.is_floating_point():
                wanted = guide[key] if number < 2 else expected[key]
                torch.testing.assert_close(value, wanted.float(), rtol=1e-5, atol=1e-6)


def test_the_student_learns_without_any_pseudo_label_and_the_alarm_says_so(
    tiny_recipe, tmp_path, teacher, capsys
):
    recipe = tiny_recipe("maskdino", "distill.class_threshold=1.0", "distill.steps=2")
    run = tmp_path / "run"
    distill(recipe, run, teacher, CPU)
    entries = log(run)
    assert [e["pseudo_per_image"] for e in entries] == [0, 0]
    assert entries[0]["losses"]["mask_unlabelled"] == 0
    assert entries[0]["losses"]["class_unlabelled"] > 0
    assert "pseudo-labels an image" in capsys.readouterr().err


EVERYTHING = [
    "distill.thresholds=prior", "distill.teacher_flip=true", "distill.teacher_scales=[1.5]",
    "distill.score=class_mask", "distill.pixel_margin=0.1",
    "distill.paste_pseudo=0.5", "distill.cutmix=0.5", "distill.ema_ramp=true", "distill.unlabelled_ramp_steps=3",
    "distill.final_steps=1", "distill.alarm_agreement=1", "distill.fallback=raise", "distill.copy_paste=0.5",
]  # fmt: skip


def test_all_options_together_resume_to_the_last_bit(tiny_recipe, tmp_path, monkeypatch, teacher):
    recipe = tiny_recipe("maskdino", *EVERYTHING)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    distill(recipe, whole, teacher, CPU, quiet=True)
    interrupt_in(monkeypatch, 3)
    with pytest.raises(InterruptedRun):
        distill(recipe, cut, teacher, CPU, quiet=True)
    distill(recipe, cut, teacher, CPU, resume=True, quiet=True)
    assert log(cut) == log(whole)
    same_networks(cut, whole)
    entries = log(whole)
    assert all(0 <= e["pseudo_agreement"] <= 1 for e in entries[:-1])
    assert "mask_unlabelled" in entries[-2]["losses"]
    assert "mask_unlabelled" not in entries[-1]["losses"]  # labels alone
    assert "pseudo_per_image" not in entries[-1]


def test_unlabelled_images_are_not_loaded_once_labels_train_alone(
    tiny_recipe, tmp_path, monkeypatch, teacher
):
    loaded, batches = [], distill_module.train_batches

    def loading(*arguments, strong, **options):
        for batch in batches(*arguments, strong=strong, **options):
            loaded.append(strong)
            yield batch

    monkeypatch.setattr(distill_module, "train_batches", loading)
    distill(tiny_recipe("maskdino", "distill.final_steps=2"), tmp_path / "run", teacher, CPU, quiet=True)
    assert (loaded.count(False), loaded.count(True)) == (6, 4)
    assert [e["step"] for e in log(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_maps_are_mixed_and_flipped_too(tiny_settings, tmp_path, task):
    changes = [*tiny_settings, "distill.cutmix=1", "distill.paste_pseudo=1", "distill.teacher_flip=true"]
    changes += ["distill.steps=3", "train.steps=1"]
    changes += ["distill.pixel_margin=0.1", "distill.thresholds=ema"] if task == "panoptic" else []
    recipe = load_recipe(f"shapes_{task}", [*changes, "data.val=none", "data.ratio=0.02"])
    pretrain(recipe, tmp_path / "teacher", CPU, quiet=True)
    distill(recipe, tmp_path / "run", find_checkpoint(tmp_path / "teacher", "teacher"), CPU, quiet=True)
    assert len(log(tmp_path / "run")) == 3


def test_the_weight_of_the_unlabelled_loss_rises(tiny_recipe, tmp_path, teacher, monkeypatch):
    weights, step = [], Learner.step

    def stepping(self, number, parts):
        weights.append([part.weight for part in parts])
        assert [part.background for part in parts] == [1.0, 0.5][: len(parts)]
        return step(self, number, parts)

    monkeypatch.setattr(Learner, "step", stepping)
    changes = ["distill.unlabelled_ramp_steps=4", "distill.unlabelled_weight=2", "distill.final_steps=1"]
    changes += ["distill.background_weight=0.5"]
    distill(tiny_recipe("maskdino", *changes), tmp_path / "run", teacher, CPU, quiet=True)
    assert weights == [[1, 0.5], [1, 1.0], [1, 1.5], [1, 2.0], [1, 2.0], [1]]


def test_the_decay_of_the_teacher_rises_and_a_frozen_one_stays(tiny_recipe, tmp_path, teacher, monkeypatch):
    decays = []
    monkeypatch.setattr(teacher_module, "update_ema", lambda a, m, decay: decays.append(decay))
    recipe = tiny_recipe("maskdino", "distill.ema_ramp=true", "distill.ema_decay=0.7")
    distill(recipe, tmp_path / "run", teacher, CPU, quiet=True)
    assert decays == pytest.approx([0.0, 1 / 2, 2 / 3, 0.7])
    decays.clear()
    changes = ["distill.fallback=freeze", "distill.alarm_agreement=0.5", "train.log_every=1"]
    monkeypatch.setattr(teacher_module, "agreement", lambda teacher, student: 0.0)
    distill(tiny_recipe("maskdino", *changes), tmp_path / "other", teacher, CPU, quiet=True)
    assert decays == [0.0]  # in alarm from the first step on: it is only born


def test_other_classes_are_refused(tiny_recipe, tmp_path, teacher, tiny_data):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    for file in (other / "annotations").iterdir():
        file.write_text(file.read_text().replace('"disc"', '"dot"'))
    with pytest.raises(CheckpointError, match=r"the teacher knows 7 classes \(disc"):
        distill(tiny_recipe("maskdino", f"data.root={other}"), tmp_path / "run", teacher, CPU, quiet=True)


def test_a_teacher_of_another_architecture_guides_but_cannot_be_copied(tiny_recipe, tmp_path, teacher):
    recipe = tiny_recipe("mask2former", "distill.steps=3", "distill.student_init=backbone")
    distill(recipe, tmp_path / "run", teacher, CPU, quiet=True)
    recipe = tiny_recipe("mask2former", "distill.student_init=teacher")
    with pytest.raises(CheckpointError, match="another architecture"):
        distill(recipe, tmp_path / "other", teacher, CPU, quiet=True)


def test_a_full_disk_keeps_the_last_checkpoint(tiny_recipe, tmp_path, monkeypatch):
    run = tmp_path / "run"
    recipe = tiny_recipe("maskdino", "train.save_every=2")
    saved, real = [], torch.save

    def save(state, path):
        if saved:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        saved.append(path)
        real(state, path)

    monkeypatch.setattr(checkpoint.torch, "save", save)
    with pytest.raises(MachineError, match="No space left") as full:
        pretrain(recipe, run, CPU, quiet=True)
    assert full.value.exit_code == 5
    assert not list((run / "checkpoints").glob("*.tmp"))
    monkeypatch.undo()
    pretrain(recipe, run, CPU, resume=True, quiet=True)  # goes on from step 2
    assert [e["step"] for e in log(run)] == [1, 2, 3, 4]


def test_resume_refuses_what_is_no_state(tiny_recipe, tmp_path, teacher):
    run = teacher.parents[1]
    state = run / "checkpoints" / "last.state.pt"
    state.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot resume"):
        pretrain(tiny_recipe(), run, CPU, resume=True, quiet=True)
    state.unlink()
    with pytest.raises(CheckpointError, match="nothing to resume from"):
        pretrain(tiny_recipe(), run, CPU, resume=True, quiet=True)


def test_a_distillation_of_a_version_without_class_thresholds_is_resumed(
    tiny_recipe, tmp_path, monkeypatch, teacher
):
    run, recipe = tmp_path / "run", tiny_recipe("maskdino", "train.save_every=2", "train.eval_every=3")
    interrupt_in(monkeypatch, 3)
    with pytest.raises(InterruptedRun):
        distill(recipe, run, teacher, CPU, quiet=True)
    file = run / "checkpoints/last.state.pt"
    state = torch.load(file, weights_only=True)
    del state["networks"]["thresholds"]
    torch.save(state, file)
    distill(recipe, run, teacher, CPU, resume=True, quiet=True)
    assert log(run)[-1]["step"] == 6
    classes = log(run, "pseudo.jsonl")  # a line for each save or evaluation that was due, not each log line
    assert [entry["step"] for entry in classes] == [2, 3, 4, 6]
    assert all(value == round(value, 4) for entry in classes for value in entry["pseudo"])


def test_a_dry_run_shows_the_numbers_of_the_run(tiny_recipe, tmp_path, teacher):
    changes = ["distill.student_init=teacher", "decoder.queries=auto", "train.eval_every=0"]
    recipe, run = tiny_recipe("maskdino", *changes), tmp_path / "run"
    shown = describe(recipe, run, CPU, "distill", teacher)
    distill(recipe, run, teacher, CPU, quiet=True)
    assert load_recipe(str(run / "recipe.yaml"), []).decoder.queries == 10  # the teacher's
    assert (run / "recipe.yaml").read_text() in shown + "\n"


def test_a_ratio_that_leaves_no_image(tiny_recipe, tmp_path):
    with pytest.raises(DataError, match="leaves none"):
        pretrain(tiny_recipe("maskdino", "data.ratio=0.01"), tmp_path / "run", CPU, quiet=True)


def test_same_seed_same_model(tiny_recipe):
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(build_model(tiny_recipe(), 7).state_dict())
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_a_validation_image_that_breaks_loses_no_step(tiny_recipe, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise DataError("cannot be read", "val/1.png")

    monkeypatch.setattr(session, "evaluate", broken)
    run = tmp_path / "run"
    with pytest.raises(DataError):
        pretrain(tiny_recipe(), run, CPU, quiet=True)
    assert (run / "checkpoints" / "last.state.pt").is_file()
    assert (run / "checkpoints" / "last-teacher.safetensors").is_file()


def test_a_nan_gradient_never_reaches_the_weights(tiny_recipe, tmp_path, monkeypatch):
    clip, calls = engine.clip_grad_norm_, []

    def poisoned(parameters, norm):
        calls.append(1)
        return torch.tensor(float("nan")) if len(calls) == 2 else clip(parameters, norm)

    monkeypatch.setattr(engine, "clip_grad_norm_", poisoned)
    with pytest.raises(DivergedError, match="gradient is NaN") as diverged:
        pretrain(tiny_recipe(), tmp_path / "run", CPU, quiet=True)
    assert diverged.value.exit_code == 6


@pytest.mark.parametrize("decoder", ["maskdino", "mask2former"])
def test_an_accumulated_batch_is_divided_by_all_its_targets(tiny_recipe, decoder):
    """One object in the first image, three in the second: its loss counts a quarter, not a half."""
    recipe = tiny_recipe(decoder, "train.accumulate=2")
    torch.manual_seed(0)
    learner = engine.Learner(build_model(recipe, 7), recipe, 7, 10, CPU)
    targets = [Targets.empty(64, 64), Targets.empty(64, 64)]
    for t, n in zip(targets, (1, 3), strict=True):
        t.labels, t.weights = torch.arange(n), torch.ones(n)
        t.masks = torch.zeros(n, 64, 64, dtype=torch.bool)
        for i in range(n):
            t.masks[i, 16 * i : 16 * i + 16] = True
        t.boxes_cxcywh = masks_to_boxes_cxcywh(t.masks)
    part = engine.Part(torch.rand(2, 3, 64, 64) * 255, [(64, 64)] * 2, targets, [0, 1])
    chunks = part.chunks(2)
    assert [(c.count, c.share, c.weight) for c in chunks] == [(4, 0.5, 1.0), (4, 0.5, 1.0)]
    outputs = learner.model(chunks[0].images, [(64, 64)])
    torch.manual_seed(1)
    alone = learner.criterion(outputs, targets[:1], [0])
    torch.manual_seed(1)
    shared = learner.criterion(outputs, targets[:1], [0], count=4)
    torch.testing.assert_close(shared["mask"], alone["mask"] / 4)


def test_a_finished_run_is_not_resumed(tiny_recipe, tmp_path):
    pretrain(tiny_recipe(), tmp_path / "run", CPU, quiet=True)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(UsageError, match="the run is finished"):
        pretrain(tiny_recipe(), tmp_path / "run", CPU, resume=True, quiet=True)
    assert (tmp_path / "run" / "run.json").read_bytes() == before

"""The label-budget experiment: which runs it needs, that each is run once, resumed, and summed up rightly."""

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from gdseg.errors import CheckpointError, DataError, DivergedError, InterruptedRun
from gdseg.recipe_yaml import apply_overrides
from gdseg.train import budget, budget_plan, session
from gdseg.train.budget import finished, run_folder, run_plan
from gdseg.train.budget_plan import Arm, make_plan
from gdseg.train.budget_report import (
    arm_rows,
    draw_results,
    gather,
    overlay_sheet,
    save_results,
    summary,
)
from gdseg.train.engine import Learner
from gdseg.train.pretrain import pretrain
from gdseg.view.sheets import Sheet

CPU = torch.device("cpu")


def plan_of(recipe, *variants, ratios=(0.5,), seeds=(0,), **how):
    named = {"recipe": recipe} | {v: apply_overrides(recipe, [v]) for v in variants}
    return make_plan(named, ratios, seeds, **how)


def keys(plan, kind, **where):
    arms = [
        arm for arm in plan.arms if arm.kind == kind and all(getattr(arm, k) == v for k, v in where.items())
    ]
    return {plan.arms[arm] for arm in arms}


def test_every_kind_takes_the_same_count_of_steps_in_all(tiny_recipe):
    plan = plan_of(tiny_recipe())  # train.steps 4, distill.steps 6
    steps = {arm.kind: plan.jobs[key].steps for arm, key in plan.arms.items()}
    assert steps == {"labels": 10, "teacher": 4, "student": 6, "all": 10}
    data = {arm.kind: plan.jobs[key].recipe.data.ratio for arm, key in plan.arms.items()}
    assert data == {"labels": 0.5, "teacher": 0.5, "student": 0.5, "all": 1.0}
    assert plan.jobs[plan.arms[Arm("recipe", 0.5, 0, "student")]].teacher in keys(plan, "teacher")


def test_runs_that_cannot_differ_are_shared(tiny_recipe):
    student_only = ("distill.weighting=score", "augment.cutout_p=0.5", "data.unlabelled_has_labelled=false")
    plan = plan_of(
        tiny_recipe(), *student_only, "data.workers=1", "train.lr=0.01", ratios=(0.5, 1.0), seeds=(0, 1)
    )
    at = {"ratio": 0.5, "seed": 0}
    assert (
        len(keys(plan, "teacher", **at)) == len(keys(plan, "labels", **at)) == 2
    )  # of the recipe, of another lr
    assert len(keys(plan, "student", **at)) == 5  # workers make no difference
    assert keys(plan, "all", seed=0, ratio=0.5) == keys(plan, "all", seed=0, ratio=1.0)
    assert keys(plan, "labels", ratio=1.0) == keys(plan, "all")
    assert not keys(plan, "teacher", seed=0) & keys(plan, "teacher", seed=1)
    assert list(plan.jobs) == list(dict.fromkeys(plan.arms.values()))


def test_other_labels_are_another_run_and_a_split_counts_by_its_content(tiny_recipe, tmp_path):
    recipe, split = tiny_recipe(), tmp_path / "split.txt"
    split.write_text("1\n2\n")
    recipe.data = replace(recipe.data, split=str(split), ratio=1.0)  # a split replaces the ratio
    first = plan_of(recipe, ratios=(None,))
    split.write_text("1\n3\n")
    second = plan_of(recipe, ratios=(None,))
    assert not keys(first, "teacher") & keys(second, "teacher")
    assert keys(first, "all") == keys(second, "all")
    one, other = (plan_of(recipe, ratios=(0.5,), data_sha256=lambda d, t, x=x: x) for x in "ab")
    assert not set(one.jobs) & set(other.jobs)


def test_other_unlabelled_images_are_another_student_of_the_same_teacher(tiny_recipe, tmp_path):
    recipe = tiny_recipe("maskdino", f"data.unlabelled=[{tmp_path}]")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    first = plan_of(recipe)
    budget_plan._images_sha256.cache_clear()  # as a new process would
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    second = plan_of(recipe)
    assert keys(first, "teacher") == keys(second, "teacher")
    assert not keys(first, "student") & keys(second, "student")


def test_without_validation_labels_there_is_nothing_to_compare(tiny_recipe):
    with pytest.raises(DataError, match="no validation labels"):
        plan_of(tiny_recipe("maskdino", "data.val=none"))


def test_what_the_teachers_key_leaves_out_does_not_change_it(tiny_recipe, tmp_path):
    for name, changes in {
        "a": [],
        "b": ["augment.cutout_p=1.0", "augment.jitter_p=0.0", "augment.grey_p=1.0", "augment.blur_p=1.0",
              "distill.steps=99", "data.unlabelled_has_labelled=false", "train.log_every=3"],
    }.items():  # fmt: skip
        pretrain(tiny_recipe("maskdino", *changes), tmp_path / name, CPU, quiet=True)
    a, b = (load_file(tmp_path / n / "checkpoints/last-teacher.safetensors") for n in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_each_run_is_run_once_and_everything_is_written(tiny_recipe, tmp_path, monkeypatch):
    plan = plan_of(tiny_recipe(), "distill.weighting=score")
    told = []
    run_plan(plan, tmp_path, CPU, quiet=True, done=lambda job, result: told.append(job.key))
    assert told == list(plan.jobs)
    assert len(told) == 5
    report = save_results(plan, tmp_path, "mask_ap")
    assert json.loads((tmp_path / "budget.json").read_text()) == report
    rows = {(row["variant"], row["kind"]): row for row in report["arms"]}
    assert rows["recipe", "student"]["labelled"] == 6
    assert rows["recipe", "all"]["labelled"] == 12
    last = [
        json.loads(x)
        for x in (tmp_path / rows["recipe", "student"]["run"] / "eval.jsonl").read_text().splitlines()
    ]
    wanted = {entry["role"]: entry["mask_ap"] for entry in last}
    assert rows["recipe", "student"]["score"] == pytest.approx(wanted["student"])
    assert rows["recipe", "student"]["average"] == pytest.approx(wanted["teacher"])
    assert set(draw_results(plan, tmp_path, report, CPU, conf=0.0)) == {
        "budget.svg",
        "budget.png",
        "overlays.png",
    }
    assert "<svg" in (tmp_path / "budget.svg").read_text()
    with monkeypatch.context() as watched:  # a row for each variant, of the networks of its own runs
        rendered = []
        watched.setattr(Sheet, "render", lambda sheet: rendered.append(sheet) or Image.new("RGB", (8, 8)))
        draw_results(plan, tmp_path, report, CPU, conf=0.0, images=1)
        captions = [caption for _, caption in rendered[0].cells]
        assert [c.split(":")[0].split(";")[0] for c in captions[0::5]] == [
            "recipe, 6 labelled images, seed 0",
            "distill.weighting=score, 6 labelled images, seed 0",
        ]
        assert [c.split(":")[0] for c in captions[6:]] == [
            "labels alone",
            "pretrained teacher",
            "student",
            "all labels",
        ]
        without = {key: r for key, r in gather(plan, tmp_path).items() if key not in keys(plan, "all")}
        overlay_sheet(plan, without, tmp_path, CPU, 0.0, images=1)  # as if that run had diverged
        assert rendered[1].columns == 4
        assert [caption for _, caption in rendered[1].cells] == captions[0:4] + captions[5:9]

    monkeypatch.setattr(budget, "run_job", None)  # would fail
    run_plan(plan, tmp_path, CPU, quiet=True)

    fewer = plan_of(tiny_recipe(), kinds=("labels",))  # another command: earlier runs keep their names
    draw_results(fewer, tmp_path, save_results(fewer, tmp_path, "mask_ap"), CPU, conf=0.0)
    assert not (tmp_path / "overlays.png").exists()
    named = json.loads((tmp_path / "runs.json").read_text())
    assert set(named) == {row["run"] for row in report["arms"]}
    of_student = named[rows["recipe", "student"]["run"]]["recipe, 0.5, seed 0: student ()"]
    assert of_student["score"] == rows["recipe", "student"]["score"]
    assert len(named[rows["recipe", "teacher"]["run"]]) == 2  # of both variants


def test_an_interrupted_experiment_goes_on_to_the_same_result(tiny_recipe, tmp_path, monkeypatch):
    plan = plan_of(tiny_recipe(), kinds=("teacher", "student"))
    run_plan(plan, tmp_path / "whole", CPU, quiet=True)
    step, sent = Learner.step, []

    def stepping(self, number, parts):
        if len(parts) == 2 and number == 3 and not sent:  # in the student's run
            sent.append(True)
            signal.raise_signal(signal.SIGINT)
        return step(self, number, parts)

    monkeypatch.setattr(Learner, "step", stepping)
    with pytest.raises(InterruptedRun, match="1 of 2 runs finished"):
        run_plan(plan, tmp_path / "cut", CPU, quiet=True)
    run_plan(plan, tmp_path / "cut", CPU, quiet=True)
    scores = [{k: r.scores for k, r in gather(plan, tmp_path / name).items()} for name in ("whole", "cut")]
    assert scores[0] == scores[1]


def test_an_interruption_during_the_last_evaluation_costs_no_training(tiny_recipe, tmp_path, monkeypatch):
    plan = plan_of(tiny_recipe("maskdino", "postprocess.max_detections=auto"), kinds=("teacher",))
    (job,) = plan.jobs.values()
    evaluate = session.evaluate

    def broken(*_, **__):
        raise KeyboardInterrupt

    def stopped(*arguments, **how):
        signal.raise_signal(signal.SIGINT)
        return evaluate(*arguments, **how)

    for fault in (broken, stopped):
        out = tmp_path / fault.__name__
        monkeypatch.setattr(session, "evaluate", fault)
        old = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        try:
            with pytest.raises(InterruptedRun, match="0 of 1"):
                run_plan(plan, out, CPU, quiet=True)
        finally:
            signal.signal(signal.SIGINT, old)
        with monkeypatch.context() as only_evaluate:
            only_evaluate.setattr(Learner, "step", None)
            only_evaluate.setattr(session, "evaluate", evaluate)
            run_plan(plan, out, CPU, quiet=True)
        network = load_file(run_folder(out, job) / "checkpoints/last-teacher.safetensors")
        assert network
        assert finished(out, job).scores["teacher"]["mask_ap"] >= 0


def test_a_state_that_cannot_be_resumed_names_the_folder_to_delete(tiny_recipe, tmp_path):
    plan = plan_of(tiny_recipe(), kinds=("teacher",))
    (job,) = plan.jobs.values()
    run_plan(plan, tmp_path, CPU, quiet=True)
    (run_folder(tmp_path, job) / "result.json").unlink()
    (run_folder(tmp_path, job) / "checkpoints" / "last.state.pt").write_bytes(b"half")
    with pytest.raises(CheckpointError) as broken:
        run_plan(plan, tmp_path, CPU, quiet=True)
    assert broken.value.where == str(run_folder(tmp_path, job))
    assert "delete this folder" in broken.value.hint


def test_a_diverged_teacher_has_no_student_and_stops_nothing_else(tiny_recipe, tmp_path, monkeypatch):
    plan = plan_of(tiny_recipe())
    teacher = plan.arms[Arm("recipe", 0.5, 0, "teacher")]
    train = budget.pretrain

    def failing(recipe, run, device, **how):
        if run.name.endswith(teacher):
            raise DivergedError("step 3: a gradient is NaN")
        return train(recipe, run, device, **how)

    monkeypatch.setattr(budget, "pretrain", failing)
    run_plan(plan, tmp_path, CPU, quiet=True)
    rows = {row["kind"]: row for row in arm_rows(plan, gather(plan, tmp_path), "mask_ap")}
    assert set(rows) == {"teacher", "labels", "all"}
    assert rows["teacher"]["score"] is None
    assert "NaN" in rows["teacher"]["diverged"]
    assert summary(list(rows.values()))[0]["gap_from_teacher"] is None


def test_two_processes_find_what_one_finds(tiny_recipe, tmp_path):
    plan = plan_of(tiny_recipe(), kinds=("teacher", "labels"))
    for jobs in (1, 2):
        run_plan(plan, tmp_path / str(jobs), CPU, jobs=jobs, quiet=True)
    one, two = ({k: r.scores for k, r in gather(plan, tmp_path / n).items()} for n in "12")
    assert one == two
    assert set(one) == set(plan.jobs)


def row(seed, kind, score, variant="recipe", **more):
    cell = {"variant": variant, "ratio": 0.1, "seed": seed, "kind": kind, "labelled": 60, "seconds": 30.0}
    cell["run"] = f"runs/{variant if kind == 'student' else ''}{kind}-{seed}"
    return cell | {"score": score} | ({"average": score} if kind == "student" else {}) | more


def test_gaps_are_paired_by_seed():
    rows = [
        *(row(0, k, s) for k, s in {"teacher": 0.2, "labels": 0.3, "student": 0.4, "all": 0.6}.items()),
        *(row(1, k, s) for k, s in {"teacher": 0.1, "labels": 0.1, "student": 0.4, "all": 0.5}.items()),
        row(0, "student", 0.45, variant="soft"),
        row(1, "student", 0.38, variant="soft"),
    ]  # fmt: skip
    plain, soft = summary(rows)
    from_teacher, from_labels = [0.2 / 0.4, 0.3 / 0.4], [0.1 / 0.3, 0.3 / 0.4]
    assert plain["gap_from_teacher"]["mean"] == pytest.approx(np.mean(from_teacher))
    assert plain["gap_from_teacher"]["std"] == pytest.approx(np.std(from_teacher, ddof=1))
    assert plain["gap_from_labels"]["values"] == pytest.approx(from_labels)
    assert plain["gain"]["values"] == pytest.approx([0.1, 0.3])
    assert plain["over_first"]["values"] == [0, 0]
    assert soft["over_first"]["values"] == pytest.approx([0.05, -0.02])
    assert soft["gap_from_teacher"] is None  # it has no teacher of its own here
    assert (plain["labelled"], plain["seeds"]) == (60, 2)
    shared = row(0, "teacher", 0.2, variant="soft")  # the teacher of the first row
    assert [line["seconds"] for line in summary([*rows, shared])] == [8 * 30, 2 * 30]


def test_one_seed_has_no_spread_and_no_room_no_gap():
    for there, told in ((0.5, None), (0.504, None), (0.49, None), (0.506, [pytest.approx(-0.1 / 0.006)])):
        (line,) = summary([row(0, "teacher", 0.5), row(0, "student", 0.4), row(0, "all", there)])
        assert line["student"]["std"] is None
        assert (line["gap_from_teacher"] or {"values": None})["values"] == told

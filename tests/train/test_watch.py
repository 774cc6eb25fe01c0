"""Collapse and drift: what is said, how often, and what the fallback does meanwhile."""

import pytest
import torch

from gdseg.losses.boxes import masks_to_boxes_cxcywh
from gdseg.recipe import Distill, Recipe
from gdseg.structures import Targets
from gdseg.train.teacher import Teacher
from gdseg.train.thresholds import ClassThresholds
from gdseg.train.watch import Watch, agreement


def watch(**keys) -> Watch:
    rule = Distill(alarm_low=0.1, alarm_high=5, class_threshold=0.5, **keys)
    return Watch(rule, ten_an_image(rule))


def ten_an_image(rule: Distill) -> ClassThresholds:
    made = ClassThresholds(rule, 3)
    made.labelled[0], made.labelled_images[()] = 10, 1
    return made


def said(made: Watch, *counts: float, **more: float) -> list[int]:
    return [len(made.check(i, {"pseudo_per_image": count, **more})) for i, count in enumerate(counts)]


def test_each_fault_is_said_once_while_it_lasts_and_again_when_it_returns():
    assert said(watch(), 10, 0.5, 0.2, 10, 60, 70, 0.5) == [0, 1, 0, 0, 1, 0, 1]


def test_a_warning_names_the_counts_and_a_cure():
    (text,) = watch().check(40, {"pseudo_per_image": 0.5})
    assert text.startswith("warning: step 40: 0.50 pseudo-labels an image, the labelled images hold 10.00")
    assert "lower distill.class_threshold" in text


def test_counts_are_held_against_labelled_images_as_they_are_cropped():
    """Ten objects on disk, two in a crop: two pseudo-labels an image are as many as there should be."""
    rule = Distill()
    made = Watch(rule, ClassThresholds(rule, 3))
    made.thresholds.count([squares((0, 0), (1, 8))] * 4, [squares()])
    assert said(made, 2, 0.19, 2, 10.1, 2) == [0, 1, 0, 1, 0]


def squares(*places: tuple[int, int]) -> Targets:
    """(label, first column) of squares of 4 x 4 pixels."""
    masks = torch.zeros(len(places), 8, 16, dtype=torch.bool)
    for mask, (_, column) in zip(masks, places, strict=True):
        mask[:4, column : column + 4] = True
    labels = torch.tensor([label for label, _ in places], dtype=torch.int64)
    return Targets(labels, masks, masks_to_boxes_cxcywh(masks), torch.ones(len(places)))


def test_the_advice_is_one_that_the_tasks_rules_allow():
    """`recipe_rules` refuses distill.thresholds for semantic maps, which have distill.region_threshold."""
    for task, allowed, other in (
        ("semantic", "distill.region_threshold", ("thresholds: prior", "class_threshold")),
        ("panoptic", "distill.thresholds: prior", ("region_threshold",)),
    ):
        rule = Distill(alarm_drift=0.4)
        made = Watch(rule, ClassThresholds(rule, 3), task)
        made.thresholds.found[:] = torch.tensor([40.0, 0, 0])
        made.thresholds.labelled[:] = torch.tensor([0.0, 20, 20])
        made.thresholds.found_images.fill_(4)
        made.thresholds.labelled_images.fill_(4)
        (few, drifted) = made.check(1, {"pseudo_per_image": 0.01})
        assert allowed in drifted
        assert not [word for word in other if word in drifted + few * (task == "semantic")]


def test_drifting_classes_are_told_once_there_are_enough_pseudo_labels():
    made = watch(alarm_drift=0.4)
    for labels, steps, expected in ((0, 5, 0), (1, 100, 1)):
        for _ in range(steps):
            made.thresholds.count([squares((0, 0))], [squares((labels, 0))])
        assert len(made.check(1, {"pseudo_per_image": 1})) == expected
    made = watch(alarm_drift=0.4)
    made.thresholds.count([squares((0, 0))], [squares((1, 0))])
    assert made.check(1, {"pseudo_per_image": 1}) == []


def test_disagreement_is_told_where_it_is_looked_at():
    assert said(watch(), 10, pseudo_agreement=0.0) == [0]
    assert said(watch(alarm_agreement=0.3), 10, 10, pseudo_agreement=0.2) == [1, 0]
    assert said(watch(alarm_agreement=0.3), 10, pseudo_agreement=0.4) == [0]


def test_nothing_is_checked_without_pseudo_labels():
    assert watch(alarm_agreement=1.0).check(1, {"loss": 1.0}) == []


def test_freeze_holds_the_teacher_while_the_student_disagrees_and_for_nothing_else():
    made = watch(fallback="freeze", alarm_agreement=0.5)
    held = []
    for count, agreed in ((10, 0.9), (60, 0.9), (0.5, 0.9), (10, 0.2), (60, 0.3), (60, 0.9)):
        made.check(1, {"pseudo_per_image": count, "pseudo_agreement": agreed})
        held.append(bool(made.thresholds.frozen))
    assert held == [False, False, False, True, True, False]


def test_a_warning_says_what_is_done_only_where_it_is():
    made = watch(fallback="freeze", alarm_agreement=0.5)
    many, student = made.check(1, {"pseudo_per_image": 60, "pseudo_agreement": 0.2})
    assert "held until" not in many
    assert student.endswith("the teacher is held until this is over")


@pytest.mark.parametrize("final", [0, 2])
def test_a_held_teacher_moves_again_once_labels_alone_are_learned(final):
    made = Teacher.__new__(Teacher)
    made.recipe = Recipe()
    made.recipe.distill = Distill(steps=6, burn_in_steps=0, final_steps=final, ema_decay=0.5)
    made.thresholds = ClassThresholds(made.recipe.distill, 3)
    made.thresholds.frozen.fill_(True)
    student, made.average = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    moved = []
    for step in range(6):
        before = made.average.weight.clone()
        torch.nn.init.constant_(student.weight, 100.0 + step)
        made.follow(student, step)
        moved.append(not torch.equal(made.average.weight, before))
    assert moved == [True, False, False, False, final > 0, final > 0]


@pytest.mark.parametrize(("count", "moved", "end"), [(60, 0.55, 0.75), (0.5, 0.45, 0.25), (10, 0.5, 0.5)])
def test_raise_moves_the_thresholds_the_right_way_and_half_way_at_most(count, moved, end):
    made = watch(fallback="raise")
    made.check(1, {"pseudo_per_image": count})
    assert made.thresholds.values.tolist() == pytest.approx([moved] * 3)
    for _ in range(40):
        made.check(1, {"pseudo_per_image": count})
    assert made.thresholds.values.tolist() == pytest.approx([end] * 3)


def test_raise_does_not_pull_back_what_is_already_further_nor_answer_drift():
    made = watch(fallback="raise", alarm_drift=0.4)
    made.thresholds.values.fill_(0.9)  # as `prior` may set it
    made.check(1, {"pseudo_per_image": 60})
    assert made.thresholds.values.tolist() == pytest.approx([0.9] * 3)
    for _ in range(100):
        made.thresholds.count([squares((0, 0))], [squares((1, 0))])
    (text,) = made.check(2, {"pseudo_per_image": 1})
    assert "drifted" in text
    assert "moved" not in text
    assert made.thresholds.values.tolist() == pytest.approx([0.9] * 3)


def test_agreement_is_the_f1_of_masks_and_classes():
    teacher = [squares((0, 0), (1, 8)), squares((2, 0))]
    student = [squares((0, 1), (2, 8)), squares()]  # moved by one: IoU 3 / 5; another class; missed
    assert agreement(teacher, student) == pytest.approx(2 * 1 / 5)
    assert agreement(teacher, teacher) == 1
    assert agreement([squares()], [squares()]) == 1
    assert agreement([squares((0, 0))], [squares((0, 0), (0, 0))]) == pytest.approx(2 / 3)
    assert agreement([squares((0, 0))], [squares((0, 2))]) == 0  # IoU 1 / 3


def test_classes_are_told_with_counts_an_image_and_thresholds():
    rule = Distill(class_threshold=0.5)
    made = Watch(rule, ClassThresholds(rule, 3))
    made.thresholds.count([squares((0, 0), (1, 8)), squares((0, 0))], [squares((1, 0))])
    assert watch().classes() == {}
    told = made.classes()
    assert told["labelled"] == pytest.approx([1, 0.5, 0])
    assert told["pseudo"] == pytest.approx([0, 1, 0])
    assert told["thresholds"] == pytest.approx([0.5] * 3)

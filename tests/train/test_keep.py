"""The --keep file: each key by hand, and every fault with its line."""

from pathlib import Path

import pytest
import torch

from gdseg.errors import RecipeError
from gdseg.recipe import Distill
from gdseg.train.keep import ClassKeep, Keep, read_keep

NAMES = ["cat", "dog", "no"]


def keep(tmp_path: Path, text: str) -> Keep:
    (tmp_path / "keep.yaml").write_text(text)
    return read_keep(tmp_path / "keep.yaml", NAMES)


def fault(tmp_path: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        keep(tmp_path, text)
    assert "--help" in str(caught.value.hint)
    return caught.value.what.replace(str(tmp_path), "")


def test_all_keys(tmp_path: Path) -> None:
    text = """
class_threshold: 0.6
mask_threshold: 0.7
min_pixels: 10
max_pixels: 900
min_objects: 1
max_objects: 50
max_instances: 20
leave_out: [dog]
classes:
  cat: {class_threshold: 0.9, min_pixels: 30}
  no: {max_pixels: 100}
"""
    own = {"cat": ClassKeep(0.9, 30, None), "no": ClassKeep(None, None, 100)}
    assert keep(tmp_path, text) == Keep(0.6, 0.7, 10, 900, 1, 50, 20, ["dog"], own)
    assert keep(tmp_path, "# nothing\n") == Keep()


def test_objects_by_class_and_size() -> None:
    rule = Keep(min_pixels=10, max_pixels=100, leave_out=["dog"], classes={"no": ClassKeep(None, 3, 5)})
    names, pixels = ["cat", "cat", "cat", "cat", "dog", "no", "no"], [9, 10, 100, 101, 50, 2, 3]
    assert rule.chosen(names, pixels) == [1, 2, 6]


def test_images_by_their_objects() -> None:
    rule = Keep(min_pixels=5, min_objects=2, max_objects=3, max_instances=1)
    assert rule.chosen(["cat"] * 2, [9, 4]) is None  # one that counts
    assert rule.chosen(["cat"] * 3, [4, 9, 9]) == [1]  # the best of those
    assert rule.chosen(["cat"] * 4, [9] * 4) is None
    assert Keep().chosen([], []) == []
    assert Keep(min_objects=1).chosen([], []) is None


def test_thresholds_replace_those_of_the_network() -> None:
    rule = Distill(class_threshold=0.5, mask_threshold=0.1, ignore_threshold=0.4)
    moved = torch.tensor([0.1, 0.2, 0.3])
    assert Keep().thresholds(NAMES, rule, None) is None
    found = Keep().thresholds(NAMES, rule, moved)
    assert found is not None
    assert found.tolist() == moved.tolist()
    own = Keep(leave_out=["dog"], classes={"cat": ClassKeep(0.9)})
    found = own.thresholds(NAMES, rule, moved)
    assert found is not None
    assert found.tolist() == pytest.approx([0.9, 2.0, 0.3])  # no score is above 2
    for_all = Keep(class_threshold=0.3, mask_threshold=0.8)
    changed = for_all.rule(rule)
    assert (changed.class_threshold, changed.mask_threshold, changed.ignore_threshold) == (0.3, 0.8, 0.3)
    assert for_all.thresholds(NAMES, changed, moved) is None
    assert rule.class_threshold == 0.5
    same = Keep(classes={name: ClassKeep(0.9) for name in NAMES}).thresholds(NAMES, rule, None)
    assert same is not None
    assert same.tolist() == pytest.approx([0.9] * 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("min_pixel: 3", "/keep.yaml:1: unknown key 'min_pixel', did you mean 'min_pixels'?"),
        ("\nmin_pixels: many", "/keep.yaml:2: 'min_pixels' is 'many', must be a whole number"),
        ("mask_threshold: 2", "/keep.yaml:1: 'mask_threshold' is 2.0, must be at most 1.0"),
        ("min_pixels: 1\nmin_pixels: 2", "/keep.yaml:2: key 'min_pixels' is given twice"),
        ("leave_out: [cat, dgo]", "'leave_out': there is no class 'dgo', did you mean 'dog'?"),
        ("leave_out: cat", "'leave_out' must be a list, as [a, b]"),
        ("leave_out: [[cat]]", "there is no class 'a list or mapping'"),
        ("classes: [cat]", "'classes' must be classes with their keys"),
        ("classes:\n  cat: 3", "/keep.yaml:2: 'classes.cat' must be keys with values"),
        ("classes: {bird: {}}", "there is no class 'bird', the network's are cat, dog, no"),
        ("classes: {cat: {}, cat: {}}", "'classes' names 'cat' twice"),
        ("classes: {cat: {min_pixls: 1}}", "unknown key 'classes.cat.min_pixls', did you mean 'min_pixels'?"),
        ("- cat", "'the file' must be keys with values"),
        ("a: [", "not YAML"),
        ("leave_out: [cat, dog, no]", "nothing would be kept"),
        ("leave_out: [cat]\nclasses: {cat: {}}", "'cat' is in leave_out and in classes"),
        ("min_objects: 3\nmax_objects: 2", "max_objects 2 is less than min_objects 3"),
        ("min_pixels: 30\nclasses: {cat: {max_pixels: 2}}", "max_pixels 2 is less than min_pixels 30 (cat)"),
        ("classes: {cat: !!python/object/apply:os.system ['x']}", "'classes.cat' must be keys with values"),
    ],
)
def test_faults(tmp_path: Path, text: str, said: str) -> None:
    if text == "a: [":
        with pytest.raises(RecipeError, match="not YAML"):
            keep(tmp_path, text)
    else:
        assert said in fault(tmp_path, text)


def test_all_faults_at_once_and_no_file(tmp_path: Path) -> None:
    said = fault(tmp_path, "max_instances: 0\nleave_out: [x]\nwhat: 1")
    assert said.startswith("3 faults")
    with pytest.raises(RecipeError, match="cannot be read"):
        read_keep(tmp_path / "none.yaml", NAMES)

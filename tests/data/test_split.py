"""Splits: nested, seeded, independent of the json's order, saved with their hash."""

import hashlib
import itertools
import json
from pathlib import Path

import pytest

from gdseg.data.split import Split, choose_split, load_split, save_split, split_by_ratio
from gdseg.errors import DataError, UsageError
from gdseg.recipe import Data
from gdseg.structures import Record

RECORDS = [Record(i, Path(f"{i:06d}.jpg"), 10, 10, ()) for i in range(200)]


def test_smaller_ratios_are_part_of_larger_ones() -> None:
    ratios = [0.01, 0.05, 0.1, 0.3, 0.5, 1.0]
    splits = [set(split_by_ratio(RECORDS, ratio, seed=3).ids) for ratio in ratios]
    assert [len(ids) for ids in splits] == [2, 10, 20, 60, 100, 200]
    assert all(small < large for small, large in itertools.pairwise(splits))


def test_the_choice_depends_on_the_seed_and_not_on_the_order() -> None:
    split = split_by_ratio(RECORDS, 0.1, seed=3)
    assert split_by_ratio(RECORDS[::-1], 0.1, seed=3) == split
    assert split_by_ratio(RECORDS, 0.1, seed=4).ids != split.ids
    words = [Record(f"img{i}", Path("x")) for i in range(20)]
    assert len(split_by_ratio([*words, *RECORDS[:20]], 0.5, 0).ids) == 20


def test_the_choice_never_changes_between_versions() -> None:
    split = split_by_ratio(RECORDS, 0.04, seed=0)
    ids = sorted(range(200), key=lambda i: hashlib.sha256(f"0:{i}".encode()).hexdigest())[:8]
    assert list(split.ids) == sorted(ids)
    assert split.sha256 == hashlib.sha256(json.dumps(sorted(ids)).encode()).hexdigest()


@pytest.mark.parametrize(("ratio", "count"), [(0.29, 15), (0.01, 1), (0.03, 2), (0.05, 3), (0.049, 2)])
def test_half_rounds_up_exactly(ratio: float, count: int) -> None:
    """0.29 * 50 is 14.5, though 14.499.. in floating point."""
    assert len(split_by_ratio(RECORDS[:50], ratio, 0).ids) == count


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5, float("nan")])
def test_a_ratio_outside_0_1_is_a_usage_error(ratio: float) -> None:
    with pytest.raises(UsageError, match="must lie in") as caught:
        split_by_ratio(RECORDS, ratio, 0)
    assert caught.value.exit_code == 2


def test_a_ratio_that_leaves_no_image_is_a_data_error() -> None:
    with pytest.raises(DataError, match="leaves none") as caught:
        split_by_ratio(RECORDS, 0.002, 0)
    assert caught.value.exit_code == 3
    assert caught.value.hint == "use at least 0.005"
    assert split_by_ratio(RECORDS, 0.005, 0).ids


def test_saving_and_loading(tmp_path: Path) -> None:
    split = split_by_ratio(RECORDS, 0.1, seed=3)
    save_split(split, tmp_path / "run" / "split.json")
    loaded = load_split(tmp_path / "run" / "split.json", RECORDS)
    assert (loaded.ids, loaded.sha256, loaded.seed, loaded.ratio) == (split.ids, split.sha256, 3, 0.1)
    assert list((tmp_path / "run").iterdir()) == [tmp_path / "run" / "split.json"]
    data = Data(split=str(tmp_path / "run" / "split.json"), ratio=0.5)
    assert choose_split(RECORDS, data, 0).ids == split.ids


def test_a_text_file_of_ids_and_names(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("# mine\n5\n\n000017.jpg\n 5 \n")
    split = load_split(tmp_path / "ids.txt", RECORDS)
    assert split.ids == (5, 17)
    assert isinstance(split, Split)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5\n999\n", "1 of 2 images of the split are not in the training set; first: '999'"),
        ("", "names no image"),
        ("{", "not json"),
        ('{"ids": 5}', "no list of ids"),
        ('{"ids": [[1]]}', "no list of ids"),
        ('{"ids": [5, 777]}', "1 of 2 images .* first: 777"),
        ('{"ids": []}', "names no image"),
        ('{"ids": [5], "sha256": "0"}', "do not fit its sha256"),
    ],
)
def test_bad_split_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "split.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        load_split(tmp_path / "split.txt", RECORDS)


def test_missing_and_binary_split_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the split"):
        load_split(tmp_path / "none", RECORDS)
    (tmp_path / "bin").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(DataError, match="it is not text"):
        load_split(tmp_path / "bin", RECORDS)


def test_ids_come_before_file_names_and_doubtful_names_are_unknown(tmp_path: Path) -> None:
    records = [Record(1, Path("x/2.png")), Record(2, Path("y/3.png")), Record(7, Path("z/3.png"))]
    (tmp_path / "split.txt").write_text("2\n")
    assert load_split(tmp_path / "split.txt", records).ids == (2,)
    (tmp_path / "split.txt").write_text("x/2.png\nz/3.png\n")
    assert load_split(tmp_path / "split.txt", records).ids == (1, 7)
    (tmp_path / "split.txt").write_text("3.png\n")
    with pytest.raises(DataError, match=r"not in the training set; first: '3.png'"):
        load_split(tmp_path / "split.txt", records)

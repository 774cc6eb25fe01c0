"""gdseg.files and gdseg.device: whole files or none; devices that are not there."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gdseg.device import amp_dtype, resolve_device
from gdseg.errors import MachineError, UsageError
from gdseg.files import link, plain, replace_file, replace_folder, write_atomic, write_json


def test_writes_text_and_bytes_and_makes_the_folder(tmp_path: Path) -> None:
    write_atomic(tmp_path / "new" / "a.txt", "grün")
    write_atomic(tmp_path / "new" / "b", b"\0\1")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "grün".encode()
    assert (tmp_path / "new" / "b").read_bytes() == b"\0\1"
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.txt", "b"]


def test_every_writer_leaves_the_usual_permissions(tmp_path: Path) -> None:
    """safetensors alone would write files that only their owner may read."""
    write_atomic(tmp_path / "a.txt", "text")
    replace_file(tmp_path / "b", lambda path: save_file({"a": torch.zeros(1)}, path))
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(MachineError, match="No space left") as caught:
        write_atomic(path, "new")
    assert caught.value.exit_code == 5
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError):
        write_atomic(tmp_path / "file" / "a.txt", "x")


def test_json_has_null_for_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [float("nan"), float("inf"), 1.5], "p": Path("x"), "n": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, None, 1.5], "p": "x", "n": None}
    assert plain((1, 2)) == [1, 2]


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")
    for word in ("gpu", "meta"):
        with pytest.raises(UsageError):
            resolve_device(word)
    with pytest.raises(MachineError, match="cuda:99"):
        resolve_device("cuda:99")
    assert amp_dtype("bf16", torch.device("cpu")) == torch.bfloat16
    assert amp_dtype("auto", torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("how", ["link", "copy", "symlink"])
def test_a_file_once_more_replaces_what_was_there(tmp_path: Path, how: str) -> None:
    (tmp_path / "a.png").write_bytes(b"new")
    (tmp_path / "a.png").chmod(0o640)
    target = tmp_path / "to" / ("b" * 250 + ".png")
    link(tmp_path / "a.png", target, how)
    link(tmp_path / "a.png", target, how)
    assert target.read_bytes() == b"new"
    assert target.samefile(tmp_path / "a.png") == (how != "copy")
    (tmp_path / "b.png").write_bytes(b"newer")
    link(tmp_path / "b.png", target, how)
    assert (target.read_bytes(), (tmp_path / "a.png").read_bytes()) == (b"newer", b"new")
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o640
    assert list((tmp_path / "to").iterdir()) == [target]


@pytest.mark.parametrize("how", ["link", "copy", "symlink"])
def test_a_file_is_never_put_in_its_own_place(tmp_path: Path, how: str) -> None:
    (tmp_path / "a.png").write_bytes(b"mine")
    with pytest.raises(MachineError, match="the file to be copied"):
        link(tmp_path / "a.png", tmp_path / "to" / ".." / "a.png", how)
    assert (tmp_path / "a.png").read_bytes() == b"mine"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_symlink_is_not_replaced_by_what_it_means(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"mine")
    (tmp_path / "also.png").symlink_to("a.png")
    for source, target in (("also.png", "also.png"), ("also.png", "a.png")):
        with pytest.raises(MachineError, match="the file to be copied"):
            link(tmp_path / source, tmp_path / target)
    assert (tmp_path / "also.png").is_symlink()
    assert (tmp_path / "a.png").read_bytes() == b"mine"


def test_a_failed_link_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"new")
    (tmp_path / "b.png").write_bytes(b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(MachineError, match="No space left"):
        link(tmp_path / "a.png", tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def new_content(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "x.txt").write_text("new")


def old_content(folder: Path) -> dict[str, str]:
    for name in ("a", "c"):
        (folder / name).mkdir(parents=True)
        (folder / name / "old.txt").write_text("old")
    return tree(folder)


def test_a_folder_is_replaced_and_stays_the_same_one(tmp_path: Path) -> None:
    place = tmp_path / "place"
    old_content(place)
    node = place.stat().st_ino
    replace_folder(place, new_content)
    assert tree(place) == {"a/x.txt": "new", "b/x.txt": "new"}
    assert place.stat().st_ino == node
    replace_folder(tmp_path / "deep" / "other", new_content)
    assert tree(tmp_path / "deep") == {"other/a/x.txt": "new", "other/b/x.txt": "new"}
    assert (tmp_path / "deep" / "other").stat().st_mode == (tmp_path / "deep").stat().st_mode
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")]


@pytest.mark.parametrize("error", [OSError(18, "Invalid cross-device link"), KeyboardInterrupt()])
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("number", range(1, 6))  # two to move aside, two to move in, and the last
def test_any_rename_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, done: bool, number: int
) -> None:
    """done: an interruption may come just after the renaming."""
    old, rename, calls = old_content(tmp_path / "place"), Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == number:
            if done:
                rename(self, target)
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(MachineError if isinstance(error, OSError) else KeyboardInterrupt):
        replace_folder(tmp_path / "place", new_content)
    assert len(calls) >= number
    assert tree(tmp_path) == {f"place/{name}": text for name, text in old.items()}
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")]


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, there: bool) -> None:
    place = tmp_path / "place"
    if there:
        place.mkdir()

    def full(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise OSError(27, "File too large")

    with pytest.raises(MachineError, match=r"(?s)cannot write: File too large.*place.*free some space"):
        replace_folder(place, full)
    assert [p.name for p in tmp_path.rglob("*")] == (["place"] if there else [])
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(MachineError, match="a link to a folder that is not there"):
        replace_folder(tmp_path / "dangling", new_content)
    assert (tmp_path / "dangling").is_symlink()


def test_what_a_writer_says_of_a_full_disk_is_put_in_words(tmp_path: Path) -> None:
    """torch and safetensors raise errors of their own, without a number."""

    def full(temporary: Path) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 640 vs 598")

    for path, kept in (
        (tmp_path / "new.pt", ""),
        (tmp_path / "old.pt", "; what was there is kept"),
    ):
        (tmp_path / "old.pt").write_bytes(b"old")
        with pytest.raises(MachineError) as caught:
            replace_file(path, full, RuntimeError)
        assert caught.value.what == "cannot write: no space left, or a limit on file sizes (ulimit -f)"
        assert caught.value.hint == f"free some space{kept}"
    assert [p.name for p in tmp_path.iterdir()] == ["old.pt"]


@pytest.mark.parametrize(
    ("number", "hint"), [(28, "free some space"), (27, "ulimit -f"), (13, "permissions")]
)
def test_the_hint_fits_why_a_file_cannot_be_written(tmp_path: Path, number: int, hint: str) -> None:
    def fails(temporary: Path) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(MachineError, match=os.strerror(number)) as caught:
        replace_file(tmp_path / "a", fails)
    assert hint in str(caught.value.hint)
    assert "is kept" not in str(caught.value.hint)

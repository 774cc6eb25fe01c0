"""What pseudo-labels are known from parts on disk, with other processes, a full disk and a user's folder."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gdseg.errors import MachineError, UsageError
from gdseg.train.label_parts import WHOLE, open_parts
from gdseg.train.label_place import is_maps

OPEN = """
import sys
from pathlib import Path
from gdseg.train.label_parts import open_parts
sys.stdin.readline()
parts = open_parts(Path("x.json"), {"rule": 1}, 40, (int(sys.argv[1]), 4), overwrite=False)
for n in range(int(sys.argv[1]) - 1, 40, 4):
    parts.append(entry(n))
parts.close()
"""
ENTRY = "def entry(n): return {'n': n, 'best': 0.5, 'image': {}, 'annotations': []}\n"


def entry(n: int, **more: Any) -> dict[str, Any]:
    return {"n": n, "best": 0.5, "image": {}} | (more or {"annotations": []})


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def opened(count: int = 4, *, overwrite: bool = False) -> Any:
    return closing(open_parts(Path("x.json"), {"rule": 1}, count, WHOLE, overwrite=overwrite))


def mapped(n: int) -> dict[str, Any]:
    return entry(n, annotation={"file_name": f"{n}.png", "segments_info": []})


def test_shards_that_begin_at_once_keep_each_others_parts() -> None:
    command = [sys.executable, "-c", ENTRY + OPEN]
    running = [subprocess.Popen([*command, str(i)], stdin=subprocess.PIPE, text=True) for i in range(1, 5)]
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
    assert [process.wait(120) for process in running] == [0] * 4
    with opened(40) as parts:
        assert [found["n"] for found in parts.entries()] == [*range(40)]
    assert not list(Path("x.json.parts").glob("*.lock"))


def test_many_parts_are_read_with_few_open_files() -> None:
    with opened(300):
        pass
    for n in range(300):
        Path(f"x.json.parts/{n + 1}-of-300.jsonl").write_text(f'{{"n": {n}, "failed": "x"}}\n')
    with opened(300) as parts:
        count = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
        for number, found in enumerate(parts.entries()):
            assert found["n"] == number
        assert not count or len(os.listdir("/proc/self/fd")) <= count + 1


def test_an_entry_without_its_map_is_not_done() -> None:
    with opened() as parts:
        parts.maps.mkdir()
        for n in range(3):
            (parts.maps / f"{n}.png").touch()
            parts.append(mapped(n))
        (parts.maps / "1.png").unlink()
    with opened() as parts:
        assert [parts.done(n) for n in range(4)] == [True, False, True, False]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_as_one() -> None:
    with opened() as parts:  # and closing raises nothing
        parts._writer.close()
        parts._writer = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115
        parts._writer.seek = lambda *_: 0
        with pytest.raises(MachineError, match="cannot write"):
            parts.append(entry(0))


def test_maps_replace_maps_and_nothing_of_the_users() -> None:
    def moved(content: str, *, overwrite: bool) -> None:
        with opened(overwrite=overwrite) as parts:
            parts.maps.mkdir(exist_ok=True)
            (parts.maps / "0.png").write_text(content)
            parts.move_maps(Path("x"))

    moved("first", overwrite=False)
    assert is_maps(Path("x"))
    moved("second", overwrite=True)
    assert Path("x/0.png").read_text() == "second"
    with opened() as parts:  # taken back: the call was not at its end
        assert not Path("x").exists()
        assert (parts.maps / "0.png").read_text() == "second"
    Path("x").mkdir()
    Path("x/0.png").write_text("mine")
    with pytest.raises(UsageError, match="a folder of yours"):
        moved("third", overwrite=False)
    assert Path("x/0.png").read_text() == "mine"

"""What `gdseg pseudo-label` has done so far, on disk: a line of JSON for each image, in OUT.parts/.

about.json says what the lines are of (network, rule, images); I-of-N.jsonl are the lines of one call, or of
one shard of several. A killed call loses the image it was at; a torn line is not read. Parts that other
machines wrote may be copied in. Called by label_run.py and label_write.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from gdseg.errors import UsageError
from gdseg.files import cannot_write, plain, write_json

try:
    import fcntl
except ImportError:  # Windows, where nobody is kept from labelling the same shard twice
    fcntl = None  # type: ignore[assignment]

Shard = tuple[int, int]  # I of N, from 1 on
WHOLE: Shard = (1, 1)
_ABOUT = "about.json"
_PART = re.compile(r"\d+-of-\d+\.jsonl")
_WORDS = {"network": "network", "rule": "rule", "thresholds": "class thresholds", "keep": "--keep file"}
_WORDS |= {"images": "list of images", "sample": "--sample", "task": "task"}


@dataclass
class Parts:
    """The lines of `count` images, one open for writing. `done(n)`: image n has been labelled."""

    folder: Path
    about: dict[str, Any]
    count: int
    files: list[Path] = field(default_factory=list)
    _open: dict[int, BinaryIO] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._file, self._offset = array("i", [-1]) * self.count, array("q", [0]) * self.count
        self._failed = array("b", [0]) * self.count

    @property
    def maps(self) -> Path:
        """The folder of label maps, until they are all there."""
        return self.folder / "maps"

    def done(self, n: int) -> bool:
        """Whether image n has been labelled; one that could not be read is tried again."""
        return self._file[n] >= 0 and not self._failed[n]

    def tried(self, n: int) -> bool:
        """Whether anything is known of image n."""
        return self._file[n] >= 0

    def append(self, entry: dict[str, Any]) -> None:
        """Write the entry of an image, {"n": its number, ..}, to the part that is open.

        Raises MachineError where it cannot be written.
        """
        file = self._open[0]
        line = json.dumps(plain(entry), allow_nan=False).encode() + b"\n"
        try:
            place = file.seek(0, 2)
            file.write(line)
            file.flush()
        except OSError as error:
            raise cannot_write(self.files[0], error) from error
        self._note(entry, 0, place)

    def _note(self, entry: dict[str, Any], number: int, place: int) -> None:
        n = entry["n"]
        if "failed" not in entry or not self.done(n):
            self._file[n], self._offset[n], self._failed[n] = number, place, "failed" in entry

    def entries(self) -> Iterator[dict[str, Any]]:
        """What is known of each image, in the images' order; one line is in memory at a time."""
        for n in range(self.count):
            if self.tried(n):
                number = self._file[n]
                file = self._open.get(number) or self._open.setdefault(number, self.files[number].open("rb"))
                file.seek(self._offset[n])
                yield json.loads(file.readline())

    def read_all(self) -> int:
        """Take note of what all parts in the folder hold; returns where the last whole line of ours ends."""
        others = [*self.folder.iterdir()] if self.folder.is_dir() else []
        self.files += sorted(path for path in others if _is_part(path) and path not in self.files)
        ends = [self._read(number) for number in reversed(range(len(self.files)))]
        return ends[-1] if ends else 0

    def _read(self, number: int) -> int:
        place = 0
        with self.files[number].open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                    entry = json.loads(line)
                    if type(entry["n"]) is int and 0 <= entry["n"] < self.count:
                        self._note(entry, number, place)
                place += len(line)
        return place

    def allow_replacing(self) -> None:
        """Note that what is at the target from now on is this work's own, or may be replaced by it."""
        self.about["replaces"] = True
        write_json(self.folder / _ABOUT, self.about)

    def move_maps(self, folder: Path) -> None:
        """Put the label maps where they belong, in place of what is there. Raises MachineError."""
        self.about["moved"] = True
        write_json(self.folder / _ABOUT, self.about)
        try:
            if folder.exists():
                shutil.rmtree(folder)
            self.maps.rename(folder)
        except OSError as error:
            raise cannot_write(folder, error) from error

    def take_maps_back(self, folder: Path) -> None:
        """Undo `move_maps` of a call that was interrupted after it."""
        if self.about.get("moved") and not self.maps.exists() and folder.is_dir():
            folder.rename(self.maps)

    def close(self) -> None:
        """Close all files, and let others write the part."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def remove(self) -> None:
        """Delete the folder: all is assembled."""
        self.close()
        _clear(self.folder)
        with contextlib.suppress(OSError):  # something of the user's is in it
            self.folder.rmdir()


def parts_folder(target: Path) -> Path:
    """Where the parts of a file or folder of labels are kept."""
    return target.with_name(f"{target.name}.parts")


def open_parts(target: Path, identity: dict[str, Any], count: int, shard: Shard, *, overwrite: bool) -> Parts:
    """Begin, or go on with what the same call has done of `target`; overwrite: begin in any case.

    identity: what must be the same for that. Raises UsageError where it is not, where the target is there
    already, and where another process writes the same part.
    """
    folder = parts_folder(target)
    about = _read_about(folder)
    if overwrite or about is None:
        if target.exists() and not overwrite:
            what = "the folder exists" if target.is_dir() else "the file exists"
            raise UsageError(what, target, "use --overwrite to replace it or name another --out")
        _refuse_busy(folder, None)
        _clear(folder)
        about = {**json.loads(json.dumps(plain(identity))), "replaces": target.exists()}
        write_json(folder / _ABOUT, about)
    elif difference := _difference(about, json.loads(json.dumps(plain(identity)))):
        what = f"labels of another {difference} are half done here"
        raise UsageError(what, folder, "give the command that began them, or --overwrite to begin anew")
    elif target.exists() and not about.get("replaces"):
        raise UsageError("the file exists, and half-done labels beside it", target, "move one of them away")
    return _opened(Parts(folder, about, count), shard)


def _opened(parts: Parts, shard: Shard) -> Parts:
    own = parts.folder / f"{shard[0]}-of-{shard[1]}.jsonl"
    own.touch()
    parts.files = [own]
    file = parts._open[0] = own.open("r+b")
    try:
        if not _lock(file):
            raise UsageError("another process is labelling these images", own, "wait for it or stop it")
        if shard == WHOLE:
            _refuse_busy(parts.folder, own)
        file.truncate(parts.read_all())
    except BaseException:
        parts.close()
        raise
    return parts


def _is_part(path: Path) -> bool:
    return _PART.fullmatch(path.name) is not None


def _lock(file: BinaryIO) -> bool:
    """Lock a file till it is closed; False where another process holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _refuse_busy(folder: Path, own: Path | None) -> None:
    """Raise UsageError if a part of the folder, other than `own`, is being written."""
    for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else ():
        if path != own and _is_part(path):
            with path.open("rb") as file:
                if not _lock(file):
                    raise UsageError("a shard is still being labelled", path, "wait till it is done")


def _read_about(folder: Path) -> dict[str, Any] | None:
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return about if isinstance(about, dict) else None


def _difference(about: dict[str, Any], identity: dict[str, Any]) -> str:
    """What differs, in words; nothing where all is the same."""
    for name, value in identity.items():
        old = about.get(name)
        if old == value:
            continue
        if isinstance(old, dict) and isinstance(value, dict):
            keys = [key for key in value if old.get(key) != value[key]]
            return f"{_WORDS.get(name, name)} ({', '.join(keys)})"
        return _WORDS.get(name, name)
    return ""


def _clear(folder: Path) -> None:
    """Delete what gdseg put into the folder, about.json first: without it nothing is gone on with."""
    (folder / _ABOUT).unlink(missing_ok=True)
    for path in [*folder.glob("*.jsonl")] if folder.is_dir() else ():
        if _is_part(path):
            path.unlink()
    shutil.rmtree(folder / "maps", ignore_errors=True)

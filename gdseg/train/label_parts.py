"""What `gdseg pseudo-label` has done so far, on disk: a line of JSON for each image, in OUT.parts/.

about.json says what the lines are of (network, rule, images); I-of-N.jsonl are the lines of one call, or of
one shard of several. A killed call loses the images that its processes were at or had been given (up to two
each); a torn line is not read. Parts that other machines wrote may be copied in, with
their maps. Called by label_folder.py, label_run.py and label_write.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from gdseg.errors import UsageError
from gdseg.files import cannot_write, plain, rename_all, write_atomic, write_json
from gdseg.lock import hold
from gdseg.train.label_entry import is_entry
from gdseg.train.label_place import MARK, is_maps, maps_folder, parts_folder

Shard = tuple[int, int]  # I of N, from 1 on
WHOLE: Shard = (1, 1)
_ABOUT, _OLD_MAPS = "about.json", "replaced-maps"
_PART, _BUSY = re.compile(r"\d+-of-\d+\.jsonl"), re.compile(r"\d+-of-\d+\.lock")
_WAIT = 60.0  # seconds, for another process that opens its part or deletes all
_WORDS = {"network": "network", "rule": "rule", "thresholds": "class thresholds", "keep": "--keep file"}
_WORDS |= {"images": "list of images", "sample": "--sample", "task": "task"}


@dataclass
class Parts:
    """The lines of `count` images, one open for writing. `done(n)`: image n has been labelled."""

    folder: Path
    about: dict[str, Any]
    count: int
    files: list[Path] = field(default_factory=list)
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _writer: FileIO | None = None
    _reader: tuple[int, BinaryIO] | None = None

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
        assert self._writer is not None
        line = json.dumps(plain(entry), allow_nan=False).encode() + b"\n"
        try:
            place = self._writer.seek(0, 2)
            while line:  # a nearly full disk takes a part of it
                line = line[self._writer.write(line) :]
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
                file = self._reading(self._file[n])
                file.seek(self._offset[n])
                yield json.loads(file.readline())

    def _reading(self, number: int) -> BinaryIO:
        """A part, open for reading: one at a time, there may be more than can be open."""
        if self._reader is None or self._reader[0] != number:
            self._stop_reading()
            self._reader = number, self.files[number].open("rb")
        return self._reader[1]

    def _stop_reading(self) -> None:
        if self._reader is not None:
            self._reader[1].close()
            self._reader = None

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
                with contextlib.suppress(ValueError, RecursionError, OSError):
                    entry = json.loads(line)
                    if is_entry(entry, self.count) and self._has_map(entry):
                        self._note(entry, number, place)
                place += len(line)
        return place

    def _has_map(self, entry: dict[str, Any]) -> bool:
        """Whether the label map is there: parts may have been copied without them."""
        return "annotation" not in entry or (self.maps / entry["annotation"]["file_name"]).is_file()

    def allow_replacing(self) -> None:
        """Note that what is at the target from now on is this work's own, or may be replaced by it."""
        self.about["replaces"] = True
        write_json(self.folder / _ABOUT, self.about)

    def move_maps(self, folder: Path) -> None:
        """Put the label maps where they belong, in place of those that are there.

        Raises MachineError, and UsageError for a folder that is not this command's own.
        """
        if folder.exists() and not is_maps(folder):
            raise UsageError("the label maps would replace a folder of yours", folder, "move it away")
        write_atomic(self.maps / MARK, "label maps that gdseg pseudo-label wrote, and may replace\n")
        self.about["moved"] = True
        write_json(self.folder / _ABOUT, self.about)
        aside = self.folder / _OLD_MAPS
        try:
            if folder.exists():
                shutil.rmtree(aside, ignore_errors=True)
                rename_all([(folder, aside), (self.maps, folder)])
            else:
                self.maps.rename(folder)
        except OSError as error:
            raise cannot_write(folder, error) from error
        shutil.rmtree(aside, ignore_errors=True)

    def close(self) -> None:
        """Close all files, and let others write the part."""
        self._stop_reading()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._held.close()

    def remove(self) -> None:
        """Delete the folder: all is assembled."""
        with hold(self.folder, wait=_WAIT):
            self.close()
            _clear(self.folder)
        with contextlib.suppress(OSError):  # something of the user's is in it
            self.folder.rmdir()


def open_parts(target: Path, identity: dict[str, Any], count: int, shard: Shard, *, overwrite: bool) -> Parts:
    """Begin, or go on with what the same call has done of `target`; overwrite: begin in any case.

    identity: what must be the same for that. Raises UsageError where it is not, where the target is there
    already, and where another process writes the same part.
    """
    folder = parts_folder(target)
    identity = json.loads(json.dumps(plain(identity)))
    with hold(folder, wait=_WAIT):  # shards may start at once, and one begins the folder
        about = _read_about(folder)
        if overwrite or about is None:
            about = _begun(target, identity, overwrite=overwrite)
        elif difference := _difference(about, identity):
            what = f"labels of another {difference} are half done here"
            raise UsageError(what, folder, "give the command that began them, or --overwrite to begin anew")
        elif target.exists() and not about.get("replaces"):
            raise UsageError(
                "the file exists, and half-done labels beside it", target, "move one of them away"
            )
        return _opened(Parts(folder, about, count), shard, maps_folder(target))


def may_replace(target: Path) -> bool:
    """Whether half-done labels are there that may replace what is at the target."""
    return bool((_read_about(parts_folder(target)) or {}).get("replaces"))


def _begun(target: Path, identity: dict[str, Any], *, overwrite: bool) -> dict[str, Any]:
    """Begin the folder; what it holds is deleted, but only with overwrite."""
    folder = parts_folder(target)
    if target.exists() and not overwrite:
        what = "the folder exists" if target.is_dir() else "the file exists"
        raise UsageError(what, target, "use --overwrite to replace it or name another --out")
    if not overwrite and any(_is_part(path) for path in folder.glob("*.jsonl")):
        what = f"half-done labels without {_ABOUT}, which says what they are of"
        raise UsageError(what, folder, "copy it from where they were made, or delete the folder")
    _refuse_busy(folder, _BUSY)
    _clear(folder)
    about = {**identity, "replaces": overwrite}
    write_json(folder / _ABOUT, about)
    return about


def _opened(parts: Parts, shard: Shard, maps: Path) -> Parts:
    """Open the shard's part. maps: where a call that was interrupted late may have put the label maps."""
    name = f"{shard[0]}-of-{shard[1]}"
    own = parts.folder / f"{name}.jsonl"
    parts.files = [own]
    try:
        _refuse_busy(parts.folder, _BUSY if shard == WHOLE else re.compile(rf"(1-of-1|{name})\.lock"))
        parts._held.enter_context(hold(parts.folder, f"{name}.lock"))
        if parts.about.get("moved") and not parts.maps.exists() and is_maps(maps):
            maps.rename(parts.maps)
        own.touch()
        parts._writer = own.open("r+b", buffering=0)
        parts._writer.truncate(parts.read_all())
    except OSError as error:
        parts.close()
        raise cannot_write(own, error) from error
    except BaseException:
        parts.close()
        raise
    return parts


def _is_part(path: Path) -> bool:
    return _PART.fullmatch(path.name) is not None


def _refuse_busy(folder: Path, names: re.Pattern[str]) -> None:
    """Raise UsageError if a part of the folder whose lock has such a name is being written."""
    for path in sorted(folder.glob("*.lock")):
        if names.fullmatch(path.name):
            try:
                with hold(folder, path.name):
                    pass
            except UsageError as error:
                what = f"a shard is still being labelled by another process, {path.stem}"
                raise UsageError(what, folder, "wait till it is done, or stop it") from error


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
    for name in ("maps", _OLD_MAPS):
        shutil.rmtree(folder / name, ignore_errors=True)

"""Files and folders that are whole or not there: written under a temporary name beside, then renamed.

Called by whoever writes results: train, predict, checkpoints, the CLI.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gdseg.errors import MachineError

_TAIL = 8192  # bytes


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tail_sha256(path: Path) -> str:
    """Of a file's length and its last bytes: what differs here differs, what is equal may be."""
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - _TAIL))
        return hashlib.sha256(b"%d " % length + file.read()).hexdigest()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to `path` in one step, making its folder if there is none.

    A reader sees the old file or the new one, never a part. Raises MachineError as `replace_file`.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    replace_file(path, lambda temporary: temporary.write_bytes(data))


def replace_file(path: Path, write: Callable[[Path], object], also: type[Exception] = OSError) -> None:
    """Call `write(temporary)` and rename the result to `path`, making its folder if there is none.

    Raises MachineError (disk full, no permission, a file where a folder is needed) and leaves what
    was there; `also`: what else the writer raises when the disk is full, in words for nobody.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors makes files that nobody else may read
        os.replace(temporary, path)
    except (OSError, also) as error:
        raise cannot_write(path, error) from error
    finally:
        _discard(temporary)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cannot_write(path: Path, error: Exception) -> MachineError:
    """What to tell of an error while writing `path`; one that is no OSError is that of a full disk."""
    number = error.errno if isinstance(error, OSError) else errno.ENOSPC
    hint = "check the path and its permissions"
    if number in _FULL:
        hint = "free some space" + (" or raise ulimit -f" if number == errno.EFBIG else "")
        hint += "; what was there is kept" if os.path.exists(path) else ""
    reason = "no space left, or a limit on file sizes (ulimit -f)"
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
    return MachineError(f"cannot write: {reason}", path, hint)


def replace_folder(folder: Path, make: Callable[[Path], object]) -> None:
    """Call `make` with a new folder and put what it made into `folder`, in place of all that is there.

    A folder that is there stays the same one: it may be a mount point or the shell's own. What it holds is
    moved aside, and deleted once the new content is in place. Whatever fails or interrupts this leaves what
    was there. Raises MachineError where it cannot write.
    """
    there = folder.is_dir()
    place = folder if there else folder.parent  # on the same disk, so that renaming is enough
    if folder.is_symlink() and not there:
        raise MachineError("a link to a folder that is not there", folder, "make that folder or name another")
    try:
        place.mkdir(parents=True, exist_ok=True)
        old = list(folder.iterdir()) if there else []
        temporary = Path(tempfile.mkdtemp(prefix=".gdseg-", dir=place))
    except OSError as error:
        raise cannot_write(folder, error) from error
    new, aside = temporary / "new", temporary / "old"
    try:
        new.mkdir()
        make(new)
        aside.mkdir()
        if there:
            moves = [(path, aside / path.name) for path in old]
            moves += [(path, folder / path.name) for path in sorted(new.iterdir())]
            rename_all([*moves, (aside, temporary / "replaced")])
        else:
            new.rename(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        if not aside.is_dir() or not any(aside.iterdir()):  # else moving back failed too: keep it
            shutil.rmtree(temporary, ignore_errors=True)


def rename_all(moves: list[tuple[Path, Path]]) -> None:
    """Rename each first path to the second: all of them or none."""
    begun: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            begun.append((source, target))  # before: an interruption may come right after renaming
            source.rename(target)
    except BaseException:
        for source, target in reversed(begun):
            if not os.path.lexists(source):
                target.rename(source)
        raise


_EDITED = frozenset(
    {".json", ".txt", ".csv", ".xml", ".yaml", ".yml"}
)  # editors may write into the file itself


def link(source: Path, target: Path, how: str = "link") -> None:
    """A file once more, in one step; its folder is made, and what was at `target` is replaced.

    how: "link", a hard link that takes no space, but a copy if it is text, or where links cannot be; "copy";
    "symlink". Raises MachineError, also where both are the same path: a file is never put in its own place.
    """
    temporary = target.with_name(f".{os.getpid()}.tmp")  # short: the target's name may be as long as can be
    try:
        if target.parent.resolve() / target.name in (source.resolve(), source.parent.resolve() / source.name):
            raise MachineError("this is the file to be copied", target, "name another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # a killed run's may be a link: never write into it
        if how == "symlink":
            temporary.symlink_to(source.resolve())
        elif how == "copy" or source.suffix.lower() in _EDITED or not _linked(source, temporary):
            shutil.copy2(source, temporary)
        os.replace(temporary, target)
    except OSError as error:
        what = f"cannot copy {source}: {error.strerror or error}"
        raise MachineError(what, target, "check the disk's space and permissions") from error
    finally:
        _discard(temporary)


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)  # of a symlink, what it means
    except OSError:  # another file system, too many links, no permission
        return False
    return True


def _discard(temporary: Path) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except OSError:  # its folder is not there or not ours: there is nothing to discard
        return


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write `value` as JSON in one step (see `write_atomic`); NaN and infinity become null."""
    write_atomic(path, json.dumps(plain(value), indent=indent, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """`value` as any JSON reader understands it: NaN and infinity become None, paths strings."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value

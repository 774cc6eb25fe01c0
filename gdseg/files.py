"""Files that are whole or not there: written under a temporary name in the same folder, then renamed.

Called by whoever writes results: train, predict, checkpoints, the CLI.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gdseg.errors import MachineError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to `path` in one step, making its folder if there is none.

    A reader sees the old file or the new one, never a part. Raises MachineError as `replace_file`.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    replace_file(path, lambda temporary: temporary.write_bytes(data))


def replace_file(path: Path, write: Callable[[Path], object], also: type[Exception] = OSError) -> None:
    """Call `write(temporary)` and rename the result to `path`, making its folder if there is none.

    Raises MachineError (disk full, no permission, a file where a folder is needed) and leaves what
    was there; `also`: what else the writer raises when the disk is full.
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
        full = getattr(error, "errno", None) in (errno.ENOSPC, None)
        hint = (
            "free some space; the file that was there is kept"
            if full
            else "check the path and its permissions"
        )
        reason = getattr(error, "strerror", None) or error
        raise MachineError(f"cannot write: {reason}", path, hint) from error
    finally:
        _discard(temporary)


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

"""Files that are whole or not there: written under a temporary name in the same folder, then renamed.

Called by whoever writes results: train, predict, the CLI. Torch's own writers are in
`models/checkpoint.py`.
"""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

from gdseg.errors import MachineError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to `path` in one step, making its folder if there is none.

    A reader sees the old file or the new one, never a part. Raises MachineError (disk full, no
    permission, a file where a folder is needed) and leaves what was there.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        hint = "free some space" if error.errno == errno.ENOSPC else "check the path and its permissions"
        raise MachineError(f"cannot write: {error.strerror or error}", path, hint) from error
    finally:
        _discard(temporary)


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

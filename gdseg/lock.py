"""One process at a time in a folder, by a lock that the kernel releases when its process ends.

POSIX record locks (fcntl(2), F_SETLK): they hold over NFS, a killed process leaves none behind, and forked
data workers do not inherit them. Called by cli/run_options.py, budget and
label_parts.py.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from gdseg.errors import UsageError

LOCK = ".lock"  # the file in the folder; no content of a run
_HELD = (errno.EACCES, errno.EAGAIN)


@contextmanager
def hold(folder: Path, name: str = LOCK, *, wait: float = 0.0) -> Iterator[None]:
    """Keep `folder` from other processes that hold it too; it is made, and removed if it stays empty.

    name: of the file that is locked; a folder may have several locks. wait: seconds to wait for another.
    Raises UsageError while another process holds it. Where nothing can be locked (Windows, a file system
    without locks, a folder that cannot be written), this does nothing.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    file = _waited(folder / name, wait) if fcntl else None
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):  # before it is released: another process may lock it right then
                (folder / name).unlink()
            os.close(file)
        for path in made:
            with suppress(OSError):  # it holds something
                path.rmdir()


def _waited(path: Path, wait: float) -> int | None:
    end = time.monotonic() + wait
    while True:
        try:
            return _lock(path)
        except UsageError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)


def _lock(path: Path) -> int | None:
    """The descriptor of the open, locked file; None where there can be none."""
    folder = path.parent
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # whoever writes there next says why it cannot be
            return None
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), path.stat()):
                _sign(file)
                return file
        except FileNotFoundError:  # its last holder removed it since it was opened: once more
            pass
        except OSError as error:
            holder = os.read(file, 200).decode(errors="replace") or "it has just begun"
            os.close(file)
            if error.errno not in _HELD:
                return None
            hint = f"wait until it has ended ({holder}), or name another --out"
            raise UsageError("another process is at work in this folder", folder, hint) from error
        os.close(file)


def _sign(file: int) -> None:
    """Write whose lock it is, for the error of others."""
    with suppress(OSError):  # a full disk
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())

"""A folder that one process holds is refused to others while it lives, however it ends."""

import os
import signal
import subprocess
import sys

import pytest

from gdseg import lock
from gdseg.errors import UsageError
from gdseg.lock import LOCK, hold

HOLDER = """
import sys, time
from pathlib import Path
from gdseg.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
pytestmark = pytest.mark.skipif(lock.fcntl is None, reason="no POSIX locks here")


@pytest.fixture
def other(tmp_path):
    """Another process that holds tmp_path/run until its stdin gets a line."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_in_use_is_refused_until_its_process_ends(tmp_path, other):
    with pytest.raises(UsageError, match="another process is at work") as refused, hold(tmp_path / "run"):
        pytest.fail("both hold it")
    assert refused.value.where == str(tmp_path / "run")
    assert f"process {other.pid} on" in refused.value.hint
    other.communicate("\n")
    assert not (tmp_path / "run").exists()  # nothing came of it
    with hold(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).is_file()


def test_a_killed_process_leaves_no_lock(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / "run" / LOCK).is_file()
    with hold(tmp_path / "run"):
        assert f"process {os.getpid()} on" in (tmp_path / "run" / LOCK).read_text()
    assert not (tmp_path / "run" / LOCK).exists()
    assert (tmp_path / "run").is_dir()  # it was there before


def test_a_forked_child_that_outlives_its_killed_parent_does_not_hold(tmp_path):
    fork = "    import os\n    child = os.fork()\n    if not child: time.sleep(60)\n    print(child, flush=True)\n"
    script = HOLDER.replace('    print("held", flush=True)\n', fork)
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            with hold(tmp_path / "run"):
                os.kill(child, 0)  # it lives
        finally:
            os.kill(child, signal.SIGKILL)


def test_where_there_are_no_locks_work_goes_on(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(37, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(lock.fcntl, "lockf", none)
        with hold(tmp_path / "run"), hold(tmp_path / "run"):
            pass
    monkeypatch.setattr(lock, "fcntl", None)
    with hold(tmp_path / "other"):
        pass

"""The process that `gdseg` starts in."""

import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is of glibc")
@pytest.mark.parametrize(
    ("before", "during"), [(None, "glibc.malloc.hugetlb=1"), ("", ""), ("glibc.malloc.perturb=0",) * 2]
)
def test_memory_in_huge_pages_unless_the_user_says_otherwise(before, during, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if before is not None:
        environment["GLIBC_TUNABLES"] = before
    shown = tmp_path / "sitecustomize.py"  # Python runs it as each process starts
    shown.write_text("import os, sys\nprint('start', os.environ.get('GLIBC_TUNABLES'), file=sys.stderr)\n")
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.getcwd()])
    command = [sys.executable, "-m", "gdseg", "recipe", "show", "no such recipe"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    starts = [line.removeprefix("start ") for line in done.stderr.splitlines() if line.startswith("start ")]
    assert starts == ([during] if before is not None else ["None", during])
    assert (done.returncode, "no such recipe" in done.stderr) == (2, True)  # the arguments came through

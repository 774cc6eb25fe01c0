"""What goes through a pipe: no line is folded, whatever it holds."""

import os
import subprocess
import sys

import pytest

from gdseg import __version__

WORDS = " ".join(f"/data/folder{i}/with-a-long-name.safetensors" for i in range(12))
SCRIPT = f"""
from pathlib import Path
from gdseg.cli.console import err, out, print_table
from gdseg.train.log import RunLog
print_table({WORDS!r}, ["", "a"], [[{WORDS!r}, "1.5"]])
out.print({WORDS!r})
err.print({WORDS!r})
RunLog(Path("none"), 1, 0, quiet=False, tensorboard=False).say({WORDS!r})
"""


@pytest.mark.parametrize("columns", [None, "60"])
def test_lines_through_a_pipe_are_folded_only_where_columns_says(columns):
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    environment |= {"COLUMNS": columns} if columns else {}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == WORDS  # the title
    if columns:
        assert max(map(len, lines[1:])) <= 60
        return
    assert lines[-1] == WORDS
    assert sum(WORDS in line for line in lines) == 3
    assert max(map(len, lines)) < len(WORDS) + 20  # and no table is as wide as it could be
    assert done.stderr.splitlines() == [WORDS, WORDS]


CLOSED = """
import os, sys
for number in map(int, sys.argv[1].split(",")):
    os.close(number)
os.execv(sys.executable, [sys.executable, "-m", "gdseg", *sys.argv[2:]])
"""


@pytest.mark.parametrize(
    ("closed", "arguments", "code"),
    [
        ("1", ["--version"], 0),
        ("2", ["--version"], 0),
        ("0,1,2", ["recipe", "list"], 0),
        ("2", ["eval", "none"], 4),
    ],
)
def test_closed_streams_are_no_terminal_and_nothing_else_is_written_there(closed, arguments, code):
    command = [sys.executable, "-c", CLOSED, closed, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr == ""
    assert done.stdout == (f"gdseg {__version__}\n" if closed == "2" and code == 0 else "")

"""The `gdseg` command; `python -m gdseg` is the same."""

import os
import sys


def main() -> None:
    """Run the command line (`gdseg.cli.app`), with huge pages for its memory where the system grants them.

    Pages of 2 MiB save the CPU the look-ups that 4 KiB ones cost (README, "Measurements"). glibc reads the
    setting as a process starts, hence a second start of this one. A GLIBC_TUNABLES of the user's own, or an
    empty one, is left alone. Source: glibc manual, "Memory Allocation Tunables".
    """
    if sys.platform == "linux" and sys.executable and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    from gdseg.cli import app  # only now: the import takes half a second

    app.main()


if __name__ == "__main__":
    main()

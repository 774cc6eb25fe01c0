"""`python -m gdseg` is the same as `gdseg`."""

from gdseg.cli.app import main

if __name__ == "__main__":
    main()

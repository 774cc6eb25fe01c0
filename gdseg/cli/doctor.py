"""`gdseg doctor`: print what `gdseg.doctor.examine` finds."""

from gdseg.cli import options as o
from gdseg.cli.console import print_json, print_table

EXAMPLES = "Example: gdseg doctor --json"


def command(as_json: o.JsonOpt = False, debug: o.DebugOpt = False) -> None:
    """Versions, device, which kernel runs and why."""
    from gdseg.doctor import examine

    facts = examine()
    if as_json:
        print_json(facts)
        return
    rows = [
        [f"{section}: {name}", str(value)]
        for section, values in facts.items()
        for name, value in values.items()
    ]
    print_table("gdseg doctor", ["what", "found"], rows)

"""How exact gdseg is, in two tables: published configurations, and recorded runs of the official code.

    python tests/golden/table.py [PART OF A NAME]

Reads the folders that the tests of this folder read (GDSEG_ZOO, GDSEG_GOLDEN) and runs those tests. First table:
parameters, tensors and their fate, whether all go back. Second: what of a run is the same (tests passed, failed,
skipped for a stated reason), and the largest relative L2 difference among its outputs, where it has a network.
Exit code 1: something failed, or nothing was found.
"""

import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import torch
from golden_cases import Case, all_cases
from golden_network import Network, named
from test_zoo import FILES, meta

from gdseg.train.convert import convert_state_dict, to_official

CONFIGURATION = [
    "configuration",
    "parameters",
    "tensors",
    "mapped",
    "copies",
    "ignored",
    "unexplained",
    "back",
]
RUN = ["recorded run", "kind", "passed", "failed", "skipped", "largest difference"]


def configuration(record: dict) -> list[str]:
    """Converts there and back, strictly; anything unexplained raises."""
    tensors = meta(record)
    recipe, ours, report = convert_state_dict(tensors, record["options"])
    assert report.parameters == record["params"]["total"]
    back = to_official(ours, recipe, report.num_classes)
    same = all(back[key].shape == value.shape for key, value in tensors.items() if not key.startswith("ssl_"))
    counts = [len(tensors), len(report.mapped), len(report.merged), len(report.ignored)]
    unexplained = counts[0] - sum(counts[1:])
    parameters = f"{report.parameters:,}".replace(",", " ")
    name = f"{record['family']}/{record['name']}"
    return [name, parameters, *map(str, [*counts, unexplained]), "all" if same else "NOT ALL"]


def tested() -> dict[str, Counter]:
    """By the runs' names, how this folder's tests of recorded runs end, in a process of their own."""
    files = [str(path) for path in sorted(Path(__file__).parent.glob("test_*.py")) if path.stem != "test_zoo"]
    ends: dict[str, Counter] = {}
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", *files, "-q", "-p", "no:cacheprovider"]
        subprocess.run([*command, f"--junitxml={folder}/tests.xml"], stdout=subprocess.DEVNULL, check=False)
        for test in ElementTree.parse(f"{folder}/tests.xml").iter("testcase"):
            kinds = {child.tag for child in test}
            end = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
            named = [case.name for case in all_cases() if case.name in test.get("name").partition("[")[2]]
            ends.setdefault(max(named, key=len, default=""), Counter())[end] += 1
    return ends


def largest_difference(case: Case) -> str:
    """Relative L2, over every recorded output, feature and level, in evaluation and in training."""
    if case.kind != "network":
        return "-"
    network, found = Network(case), {}
    if network.recorded("eval/"):
        found |= network.evaluated()[1]
    if network.recorded("train/"):
        with torch.no_grad():
            found |= dict(named(network.trained()[1], "train"))
    recorded = network.recorded("")
    return f"{max(network.difference(name, value) for name, value in found.items() if name in recorded):.1e}"


def main(part: str) -> None:
    """Print both tables."""
    rows = failed = 0
    for file in FILES:
        record = json.loads(gzip.decompress(file.read_bytes()))
        if part in f"{record['family']}/{record['name']}":
            rows = _print(configuration(record), CONFIGURATION, rows)
    runs = [case for case in all_cases() if part in case.name]
    outcomes, shown = tested() if runs else {}, 0
    for case in runs:
        ends = outcomes.get(case.name, Counter())
        failed += ends["failed"] or not ends["passed"]
        counts = [str(ends[name]) for name in ("passed", "failed", "skipped")]
        shown = _print(
            [case.name, case.kind, *counts, "-" if ends["failed"] else largest_difference(case)], RUN, shown
        )
    sys.exit(bool(failed or not rows + shown))


def _print(row: list[str], header: list[str], before: int) -> int:
    """Print a row, below the header where it is the first; how many there are now."""
    if not before:
        print("\n| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    print("| " + " | ".join(row) + " |", flush=True)
    return before + 1


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")

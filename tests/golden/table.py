"""The published configurations in one table: parameters, tensors and their fate, difference to recorded outputs.

    python tests/golden/table.py [PART OF A NAME]

Reads the folders that the tests of this folder read (GDSEG_ZOO, GDSEG_GOLDEN). A recorded run is small but for its
yaml's own options, so its largest relative L2 difference stands beside the configuration that it was made from.
"""

import gzip
import json
import sys
from pathlib import PurePosixPath

import torch
from golden_cases import Case, all_cases
from golden_network import Network, named
from test_zoo import FILES, meta

from gdseg.train.convert import convert_state_dict, to_official

HEADER = [
    "configuration",
    "parameters",
    "tensors",
    "mapped",
    "copies",
    "ignored",
    "unexplained",
    "back",
    "largest difference",
]


def largest_difference(case: Case) -> float:
    """Relative L2, over every recorded output, feature and level, in evaluation and in training."""
    network, found = Network(case), {}
    if network.recorded("eval/"):
        found |= network.evaluated()[1]
    with torch.no_grad():
        found |= dict(named(network.trained()[1], "train"))
    recorded = network.recorded("")
    return max(network.difference(name, value) for name, value in found.items() if name in recorded)


def configuration_of(case: Case) -> tuple[str, str]:
    """(family, name) of the yaml that a case was made from, as the records call it."""
    dataset, task, *rest = PurePosixPath(case.manifest["yaml"]).with_suffix("").parts[1:]
    return case.manifest["model"].lower(), "_".join([dataset, task.split("-")[0], *rest])


def row(record: dict, recorded: list[Case]) -> list[str]:
    """Converts there and back, strictly; anything unexplained raises."""
    tensors = meta(record)
    recipe, ours, report = convert_state_dict(tensors, record["options"])
    assert report.parameters == record["params"]["total"]
    back = to_official(ours, recipe, report.num_classes)
    same = all(back[key].shape == value.shape for key, value in tensors.items() if not key.startswith("ssl_"))
    worst = [f"{largest_difference(case):.1e} ({case.name})" for case in recorded]
    counts = [len(tensors), len(report.mapped), len(report.merged), len(report.ignored)]
    unexplained = counts[0] - sum(counts[1:])
    parameters = f"{report.parameters:,}".replace(",", " ")
    return [
        f"{record['family']}/{record['name']}",
        parameters,
        *map(str, [*counts, unexplained]),
        "all" if same else "NOT ALL",
        "; ".join(worst) or "-",
    ]


def main(part: str) -> None:
    """Print the table; exit code 1 if it has no row."""
    cases: dict[tuple[str, str], list[Case]] = {}
    for case in all_cases():
        if case.kind == "network":
            cases.setdefault(configuration_of(case), []).append(case)
    print("| " + " | ".join(HEADER) + " |\n" + "|---" * len(HEADER) + "|", flush=True)
    rows = 0
    for file in FILES:
        record = json.loads(gzip.decompress(file.read_bytes()))
        name = record["family"], record["name"]
        if part in "/".join(name):
            print("| " + " | ".join(row(record, cases.get(name, []))) + " |", flush=True)
            rows += 1
    sys.exit(rows == 0)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")

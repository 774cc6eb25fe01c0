"""Writes `published.json` from records of the official configurations (one gzipped json each).

    python -m gdseg.train.convert.make_published RECORDS_FOLDER

A record holds `name`, `family` and `config_resolved` (the merged detectron2 configuration). Run by hand when
a configuration is added; tests compare the table with the records where they are at hand.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

from gdseg.recipe import Recipe
from gdseg.train.convert.identify import _flat
from gdseg.train.convert.options import recipe_keys

_FOLDERS = {
    "mask2former": "mask2former",
    "maskdino": "mask_dino",
    "guideddistillation": "guided_distillation",
}


def table_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> keys that differ from `Recipe()`; configurations with released weights first in each family."""
    records = [json.loads(gzip.decompress(p.read_bytes())) for p in sorted(folder.glob("*/*.json.gz"))]
    records = [r for r in records if "config_resolved" in r]
    families = list(_FOLDERS)
    records.sort(key=lambda r: (families.index(r["family"]), not r["released"], r["name"]))
    defaults = {"task": Recipe().task, **_flat(Recipe())}
    table = {}
    for record in records:
        keys = recipe_keys(record["config_resolved"])
        name = f"{_FOLDERS[record['family']]}/{record['name']}"
        table[name] = {key: value for key, value in keys.items() if defaults.get(key, keys) != value}
        files = [link["url"].rsplit("/", 1)[-1] for link in record["released"] or []]
        if files:
            table[name]["files"] = files
    return table


if __name__ == "__main__":
    rows = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in table_of(Path(sys.argv[1])).items())
    text = "{\n" + ",\n".join(rows) + "\n}\n"
    Path(__file__).with_name("published.json").write_text(text, encoding="utf-8")

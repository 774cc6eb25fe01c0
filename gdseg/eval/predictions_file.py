"""A file of predictions by any tool, parsed once, and what it says of itself.

results.py (instances) and maps_file.py read it. Called by `gdseg eval --pred` and `gdseg visualize`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdseg.coco_json import PREDICTED
from gdseg.data.coco import peek


@dataclass(frozen=True)
class PredictionsFile:
    """A json or a folder of predictions, and the task it is for. content: of the json; untrusted."""

    path: Path
    task: str
    content: Any = None

    @property
    def info(self) -> dict[str, Any]:
        """What a document says of itself; empty where it says nothing."""
        info = self.content.get("info") if isinstance(self.content, dict) else None
        return info if isinstance(info, dict) else {}

    @property
    def lowest_score(self) -> float:
        """The score below which `gdseg predict` left everything out; 0 where somebody else wrote the file."""
        conf: Any = self.info.get("conf") if self.info.get("description") == PREDICTED else None
        return float(conf) if type(conf) in (int, float) and 0 <= conf <= 1 else 0.0

    @property
    def images(self) -> Path:
        """The folder that file names are relative to: the one the document names, or its own."""
        named = self.info.get("images")
        return Path(named) if isinstance(named, str) and os.path.isdir(named) else self.path.parent


def open_predictions(path: Path) -> PredictionsFile:
    """The predictions in a file: a folder is semantic, a json tells. Raises DataError if it is no json."""
    if path.is_dir():
        return PredictionsFile(path, "semantic")
    content = peek(path)
    entries: Any = content.get("annotations") if isinstance(content, dict) else None
    first = entries[0] if isinstance(entries, list) and entries else None
    is_panoptic = isinstance(first, dict) and "segments_info" in first
    return PredictionsFile(path, "panoptic" if is_panoptic else "instance", content)

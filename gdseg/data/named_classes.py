"""Classes of formats that know them by name only. Called by the readers of labelme's and Label Studio's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from gdseg.data.semantic_folder import declared_classes
from gdseg.recipe import Data
from gdseg.structures import ClassInfo


def named_classes(
    root: Path, data: Data, used: Callable[[], Iterable[str]], without: Iterable[str] = ()
) -> list[ClassInfo]:
    """The classes of `data.classes`, labels.txt or classes.txt, else those `used`, sorted; none of `without`.

    Raises DataError for a file that declares no classes.
    """
    files = [data.classes] if data.classes else ["labels.txt", "classes.txt"]
    path = next((root / name for name in files if data.classes or (root / name).is_file()), None)
    names = sorted(set(used())) if path is None else [info.name for info in declared_classes(path)]
    return [ClassInfo(i, name) for i, name in enumerate(n for n in names if n not in without)]

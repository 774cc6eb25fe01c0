"""What a conversion did, tensor by tensor, and what the file could not tell. Made by `convert.tensors`."""

from __future__ import annotations

from dataclasses import dataclass, field

from gdseg.structures import ClassInfo


@dataclass
class Report:
    """Every tensor of the converted role is in exactly one of `mapped`, `merged`, `ignored`.

    mapped: source name -> ours; renamed: those of them whose name changed; merged: copy of a shared tensor ->
    ours; ignored: source name -> why it is not needed; missing: our name -> what stands for a tensor that the
    source lacks; assumed: what the file does not say and was taken from the options or the published
    configuration; differences: where file and options disagree (the file is right); unlike: official training
    options that no recipe key takes over; adapted: source name ->
    how its values were changed to suit a recipe's RGB images; table: the classes; classes_from: who
    says so; use: recipe keys that a backbone needs.
    """

    family: str
    role: str = ""
    configuration: str = ""
    dataset: str = ""
    also_fits: list[str] = field(default_factory=list)
    num_classes: int = 0
    table: list[ClassInfo] = field(default_factory=list)
    classes_from: str = ""
    blue_first: bool = False
    license: str = ""
    parameters: int = 0
    mapped: dict[str, str] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    use: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        """Class names by label."""
        return [info.name for info in self.table]

    @property
    def category_ids(self) -> list[int]:
        """The data set's class ids by label."""
        return [info.id for info in self.table]

    @property
    def renamed(self) -> dict[str, str]:
        """The mapped tensors whose name changed."""
        return {theirs: ours for theirs, ours in self.mapped.items() if theirs != ours}

    def counts(self) -> dict[str, int]:
        """How many tensors met which fate."""
        names = ("mapped", "renamed", "merged", "ignored", "missing")
        return {name: len(getattr(self, name)) for name in names}

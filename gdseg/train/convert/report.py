"""What a conversion did, tensor by tensor, and what the file could not tell. Made by `convert.tensors`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Report:
    """Every tensor of the converted role is in exactly one of `mapped`, `merged`, `ignored`.

    mapped: source name -> ours; renamed: those of them whose name changed; merged: copy of a shared tensor ->
    ours; ignored: source name -> why it is not needed; missing: our name -> what stands for a tensor that the
    source lacks; assumed: what the file does not say and was taken from the options or the published
    configuration; differences: where file and options disagree (the file is right).
    """

    family: str
    role: str = ""
    configuration: str = ""
    dataset: str = ""
    also_fits: list[str] = field(default_factory=list)
    num_classes: int = 0
    classes: list[str] = field(default_factory=list)
    category_ids: list[int] = field(default_factory=list)
    license: str = ""
    parameters: int = 0
    mapped: dict[str, str] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def renamed(self) -> dict[str, str]:
        """The mapped tensors whose name changed."""
        return {theirs: ours for theirs, ours in self.mapped.items() if theirs != ours}

    def counts(self) -> dict[str, int]:
        """How many tensors met which fate."""
        names = ("mapped", "renamed", "merged", "ignored", "missing")
        return {name: len(getattr(self, name)) for name in names}

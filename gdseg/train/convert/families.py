"""Which project a file's tensors come from, and the network inside it.

Called by `convert.convert_state_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gdseg.errors import CheckpointError
from gdseg.train.convert.names import PREDICTOR

TEACHER, STUDENT = "modelTeacher.", "modelStudent."
LICENSES = {
    "Mask2Former": "CC-BY-NC-4.0 for the weights Meta released (the code is MIT)",
    "Mask DINO": "Apache-2.0",
    "Guided Distillation": "CC-BY-NC-4.0",
    "Mask2Former (Hugging Face)": "that of its model card; Meta's own weights are CC-BY-NC-4.0",
}


def family_of(tensors: Mapping[str, Tensor]) -> str:
    """The project's name. Raises CheckpointError for tensors of none that gdseg knows."""
    if (
        any(name.startswith((TEACHER, STUDENT)) for name in tensors)
        or "ssl_criterion.empty_weight" in tensors
    ):
        return "Guided Distillation"
    if PREDICTOR + "label_enc.weight" in tensors:
        return "Mask DINO"
    if any(name.startswith(PREDICTOR) for name in tensors):
        return "Mask2Former"
    shown = ", ".join(list(tensors)[:3]) or "none"
    hint = "gdseg converts Mask2Former, Mask DINO and Guided Distillation, and backbone weights"
    raise CheckpointError(f"tensors of a family that gdseg does not know: {shown}", hint=hint)


def one_network(tensors: Mapping[str, Tensor], role: str | None) -> tuple[dict[str, Tensor], str]:
    """The tensors of one network of an ensemble, without prefix, and its role; without one, all and "".

    role None: the teacher, which is what stage 1 trains and what predicts best. Raises CheckpointError.
    """
    roles = [
        r
        for r, prefix in (("teacher", TEACHER), ("student", STUDENT))
        if any(n.startswith(prefix) for n in tensors)
    ]
    if not roles:
        if role is not None:
            raise CheckpointError(
                f"holds one network, not an ensemble with a {role}", hint="leave --role out"
            )
        return dict(tensors), ""
    chosen = role or roles[0]
    if chosen not in roles:
        raise CheckpointError(f"an ensemble without a {chosen}", hint=f"--role {roles[0]}")
    prefix = TEACHER if chosen == "teacher" else STUDENT
    return {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}, chosen

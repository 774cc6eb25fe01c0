"""The state a run resumes from: one file with every network, the optimiser, the scaler and the best scores.

One file, so that a crash between two writes cannot mix steps; read with weights_only=True. Random
state and sampler position are functions of the step (`engine.seed_step`, `data/loader.py`) and need
no saving. Called by `session.py`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gdseg.errors import CheckpointError
from gdseg.files import replace_file
from gdseg.train.engine import Learner

_UNUSABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    AttributeError,
)

_LATER = ("thresholds",)  # what states written by an earlier version lack


def save_state(
    path: Path, progress: dict[str, Any], learner: Learner, networks: Mapping[str, nn.Module]
) -> None:
    """Write everything that `load_state` needs; `progress` is plain numbers, lists and dicts.

    Raises MachineError when the disk is full.
    """
    state = {
        **progress,
        "networks": {name: network.state_dict() for name, network in networks.items()},
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
    }
    replace_file(path, lambda temporary: torch.save(state, temporary), RuntimeError)


def load_state(path: Path, learner: Learner, networks: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Restore networks, optimiser and scaler in place; return the progress: step, best, unlogged ..

    A state of an earlier version has no "thresholds", those of the recipe stay, and owes no evaluation.

    Raises CheckpointError when the file is missing, unsafe, or of another architecture or optimiser.
    """
    if not path.is_file():
        raise CheckpointError("nothing to resume from", path, "start it again with --overwrite")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["networks"]
        for name, network in networks.items():
            if name in saved or name not in _LATER:
                network.load_state_dict(saved[name])
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.scaler.load_state_dict(state["scaler"])
        state.setdefault("evaluated", state["step"])
        return {name: state[name] for name in ("step", "best", "unlogged", "scores", "evaluated")}
    except _UNUSABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        hint = "the recipe's model and optimiser keys must be those the run was started with"
        raise CheckpointError(f"cannot resume: {reason}", path, hint) from error

"""The teacher as an exponential moving average of the student (Mean Teacher, arXiv 1703.01780 §2)."""

import torch
from torch import nn


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model, for parameters and floating-point buffers.

    Integer buffers (such as batch norm's counter) are copied. decay 0 makes an exact copy. The two
    modules must have the same structure.
    """
    old_tensors = [*average.parameters(), *average.buffers()]
    new_tensors = [*model.parameters(), *model.buffers()]
    pairs = list(zip(old_tensors, new_tensors, strict=True))
    if decay == 0.0:  # lerp's arithmetic need not return its end point to the last bit
        for old, new in pairs:
            old.copy_(new)
        return
    floats = [(old, new) for old, new in pairs if old.is_floating_point()]
    torch._foreach_lerp_([old for old, _ in floats], [new for _, new in floats], 1.0 - decay)
    for old, new in pairs:
        if not old.is_floating_point():
            old.copy_(new)

"""Where random numbers of the models and losses come from, so that a test can replay recorded ones.

Callers ask once for all layers of a step (one large call); `tag` and the layer names only matter to
a replaying subclass. The default draws from torch's global generator, which the training loop seeds
anew at every step, so that a resumed run draws what an uninterrupted one would.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Draws:
    """Uniform draws. Subclass and override to replay recorded numbers."""

    def rand(self, tag: str, layers: Sequence[str], shape: Sequence[int], device: torch.device) -> Tensor:
        """float32 [len(layers), *shape] in [0, 1)."""
        return torch.rand(len(layers), *shape, device=device)

    def randint(self, tag: str, high: int, shape: Sequence[int], device: torch.device) -> Tensor:
        """int64 of `shape` in 0..high-1."""
        return torch.randint(high, tuple(shape), device=device)

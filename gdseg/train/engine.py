"""One optimiser step, shared by pretrain and distill: forward, losses, backward, clip, update.

Also what a step needs to be repeatable: randomness is seeded from (seed, step), so a run that goes
on from step k draws what an uninterrupted one would; no random state needs saving.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from gdseg.device import amp_dtype
from gdseg.errors import DivergedError
from gdseg.losses.criterion import Criterion, check_finite
from gdseg.models.model import SegmentationModel
from gdseg.recipe import Distill, Recipe
from gdseg.structures import Batch, Targets
from gdseg.train.optim import build_optimizer, lr_factor, set_lr

_SEED_STRIDE = 1_000_003  # a prime, so that seeds of different runs do not share steps


@dataclass
class Part:
    """One stream of a step: images [B, C, H, W], their sizes, targets, and the weight of their loss.

    `suffix` marks the names of its losses ("" or "_unlabelled"); `denoise`: also train Mask DINO's
    denoising queries on these targets. `count` targets (None: its own) divide the losses and `share`
    is its part of the images, both for a chunk of a larger part. `background` weighs what has no target.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    targets: list[Targets]
    image_ids: list[int | str]
    weight: float = 1.0
    suffix: str = ""
    denoise: bool = True
    count: int | None = None
    share: float = 1.0
    background: float = 1.0

    def chunks(self, count: int) -> list[Part]:
        """The part cut into `count` smaller ones, whose losses sum to this one's."""
        size = -(-len(self.sizes) // count)
        cuts = [slice(i, i + size) for i in range(0, len(self.sizes), size)]
        return [
            replace(
                self,
                images=self.images[cut],
                sizes=self.sizes[cut],
                targets=self.targets[cut],
                image_ids=self.image_ids[cut],
                count=sum(len(targets) for targets in self.targets),
                share=len(self.sizes[cut]) / len(self.sizes),
            )
            for cut in cuts
        ]


def labelled_part(batch: Batch) -> Part:
    """The weak views of a labelled batch with their labels."""
    targets = cast(list[Targets], batch.targets)
    return Part(batch.images, batch.sizes, targets, batch.image_ids)


def unlabelled_part(batch: Batch, pseudo: list[Targets], rule: Distill, share: float = 1.0) -> Part:
    """The strong views of an unlabelled batch with pseudo-labels; `share` of the weight is in force."""
    strong = batch.images if batch.strong is None else batch.strong
    weight = rule.unlabelled_weight * share
    part = Part(strong, batch.sizes, pseudo, batch.image_ids, weight, "_unlabelled", rule.denoising)
    return replace(part, background=rule.background_weight)


class Learner:
    """A network with its optimiser, criterion and precision; `features`: a loss of what it saw, if any."""

    def __init__(
        self,
        model: SegmentationModel,
        recipe: Recipe,
        num_classes: int,
        total_steps: int,
        device: torch.device,
        things: Sequence[bool] | None = None,
    ) -> None:
        self.model = model
        self.train = recipe.train
        self.seed = recipe.seed
        self.total_steps = total_steps
        self.device = device
        self.softmax = recipe.softmax_classes
        self.criterion = Criterion(recipe, num_classes, things)
        self.optimizer: Optimizer = build_optimizer(model, recipe.train)
        self.amp_dtype = amp_dtype(recipe.train.precision, device)
        self.features: Callable[[Tensor, Sequence[tuple[int, int]]], Tensor] | None = None
        self.scaler = GradScaler(device.type, enabled=self.amp_dtype == torch.float16)

    def step(self, step: int, parts: Sequence[Part]) -> dict[str, float]:
        """Take optimiser step number `step` on the sum of the parts' losses; return them by name.

        Each part is run and differentiated by itself, so memory is that of the largest. Raises
        DivergedError naming the images when a loss is NaN or infinite.
        """
        self.model.train()
        set_lr(self.optimizer, lr_factor(step, self.total_steps, self.train))
        self.optimizer.zero_grad(set_to_none=True)
        terms: dict[str, Tensor] = {}
        for part in parts:
            for chunk in part.chunks(self.train.accumulate):
                for name, value in self._backward(chunk).items():
                    terms[name + part.suffix] = terms.get(name + part.suffix, 0.0) + value
        self.scaler.unscale_(self.optimizer)
        norm = self._clip()
        if not self.scaler.is_enabled() and not norm.isfinite():
            ids = ", ".join(str(i) for part in parts for i in part.image_ids)
            raise DivergedError(
                f"step {step}: a gradient is NaN or infinite", f"images {ids}", "lower train.lr"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        names = list(terms)
        values = torch.stack([*terms.values(), norm]).tolist()  # one device-to-host copy
        losses = dict(zip(names, values[:-1], strict=True))
        return {"loss": sum(losses.values()), **losses, "grad_norm": values[-1]}

    def _backward(self, part: Part) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype != torch.float32):
            outputs = self.model(part.images, part.sizes, part.targets if part.denoise else None)
            extra = {} if self.features is None else {"features": self.features(part.images, part.sizes)}
        found = self.criterion(
            outputs, part.targets, part.image_ids, count=part.count, background=part.background
        )
        losses = {**found, **extra}
        check_finite(losses, part.image_ids)
        losses = {
            name: value * part.weight * (part.share if self._is_mean(name) else 1)
            for name, value in losses.items()
        }
        total = torch.stack(list(losses.values())).sum()
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        return {name: value.detach() for name, value in losses.items()}

    def _is_mean(self, name: str) -> bool:
        """Whether a loss is a mean, over queries (softmax) or images; others are sums divided by `count`."""
        return name == "features" or (self.softmax and name.startswith("class"))

    def _clip(self) -> Tensor:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return clip_grad_norm_(parameters, self.train.clip_norm or float("inf"))


def seed_step(seed: int, step: int) -> None:
    """Seed every generator of torch for one step, so that the step is a function of (seed, step)."""
    torch.manual_seed(seed * _SEED_STRIDE + step)

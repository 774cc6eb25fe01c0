"""A recorded network under our names.

Weights, images, targets, and how far our tensors are from the record's.
"""

import hashlib
from functools import cached_property

import numpy as np
import torch
from golden_cases import Case, RecordedDraws

from gdseg.models.model import SegmentationModel, build_model
from gdseg.recipe import Recipe
from gdseg.structures import Outputs, Targets
from gdseg.train.convert import convert_state_dict

THINGS = 80  # the first classes are things in every record


class Network:
    """What a full-model case says, made ours."""

    def __init__(self, case: Case) -> None:
        self.case, self.manifest, self.results = case, case.manifest, case.manifest["results"]
        self.seed, self.official = self.manifest["seed"], case.official
        self.classes = self.results["num_classes"]
        self.draws = RecordedDraws(self.official, self.seed)
        self.noise = self.manifest.get("noise_f32_vs_f64") or {}

    @property
    def options(self) -> dict:
        """The resolved MODEL node; of a section that it leaves out, what the command line set."""
        model, given = dict(self.manifest["cfg_model"]), self.manifest.get("opts") or []
        for key, value in zip(given[::2], given[1::2], strict=True):
            place, _, option = key.removeprefix("MODEL.").partition(".")
            if key.startswith("MODEL.") and option and place not in self.manifest["cfg_model"]:
                model[place] = {**model.get(place, {}), option: value}
        return model

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The official weights, recreated and checked; what the recipe of weights leaves alone is zero."""
        items = [(e["key"], e["shape"], e["alias_of"]) for e in self.manifest["state_dict"]]
        arrays = self.official.fill_state_dict(items, self.seed, self.manifest["family"], self.manifest["mf"])
        digest = hashlib.sha256(b"".join(arrays[key].tobytes() for key in sorted(arrays))).hexdigest()
        assert digest == self.manifest["filled_sha256"]
        return {
            entry["key"]: torch.from_numpy(arrays[entry["key"]])
            if entry["key"] in arrays
            else torch.zeros(entry["shape"], dtype=getattr(torch, entry["dtype"]))
            for entry in self.manifest["state_dict"]
        }

    @cached_property
    def converted(self):
        """(recipe, state dict, report) of the official weights."""
        return convert_state_dict(self.tensors, self.options)

    @property
    def recipe(self) -> Recipe:
        recipe = self.converted[0]
        most = self.manifest.get("cfg_test_detections_per_image", recipe.postprocess.max_detections)
        recipe.postprocess.max_detections = most
        return recipe

    @property
    def model(self) -> SegmentationModel:
        model = build_model(self.recipe, self.classes, load_weights=False)
        model.load_state_dict(self.converted[1])  # strict
        return model

    @cached_property
    def our_names(self) -> dict[str, str]:
        """Official name of each tensor, copies included -> ours."""
        return {**self.converted[2].mapped, **self.converted[2].merged}

    def images(self, train: bool) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """The padded batch and the images' sizes."""
        sizes = [tuple(s[:2]) for s in self.results["train_input_sizes" if train else "eval_input_sizes"]]
        seeds = [self.seed * 100 + i + 50 * train for i in range(len(sizes))]
        return recorded_images(self.official, seeds, sizes), sizes

    def targets(self) -> list[Targets]:
        """Training targets; boxes are shares of the unpadded image, as official code has them."""
        images, sizes = self.images(train=True)
        counts = self.results["train_num_targets"]
        return [
            recorded_targets(
                self.official, self.seed * 100 + 50 + i, size, n, self.classes, self.recipe, images.shape[-2:]
            )
            for i, (size, n) in enumerate(zip(sizes, counts, strict=True))
        ]

    @torch.no_grad()
    def evaluated(self) -> tuple[Outputs, dict[str, torch.Tensor]]:
        """Our outputs in evaluation mode, and by their recorded names all tensors on the way."""
        model, (images, sizes), seen = self.model.eval(), self.images(train=False), {}
        for name in ("backbone", "pixel_decoder"):
            part = getattr(model, name)
            part.register_forward_hook(
                lambda _module, _inputs, output, name=name: seen.update({name: output})
            )
        outputs = model(images, sizes)
        pyramid = seen["pixel_decoder"]
        tensors = {f"eval/backbone/{key}": value for key, value in seen["backbone"].items()}
        tensors["eval/mask_features"] = pyramid.mask_features
        tensors |= {f"eval/multi_scale/{i}": level for i, level in enumerate(pyramid.levels)}
        return outputs, {**tensors, **dict(named(outputs, "eval"))}

    def trained(self) -> tuple[SegmentationModel, Outputs]:
        """Our model after one forward pass in training mode, and its outputs."""
        model = self.model.train()
        images, sizes = self.images(train=True)
        return model, model(images, sizes, self.targets(), self.draws)

    def recorded(self, prefix: str, among: str = "") -> set[str]:
        """Names of recorded tensors."""
        return {k for k in self.manifest["tensors"] if k.startswith(prefix) and among in k}

    def difference(self, name: str, ours: torch.Tensor) -> float:
        """Relative L2 difference of our tensor and the recorded one (of its samples, where it is large)."""
        golden, value = self.pair(name, ours)
        return float((value - golden).norm() / golden.norm().clamp(min=1e-6))

    def pair(self, name: str, ours: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(recorded, ours), float32, the recorded elements alone."""
        facts = self.manifest["tensors"][name]
        golden = torch.from_numpy(self.case.arrays[name.replace("/", "|")].astype(np.float32))
        value = ours.detach().float()
        assert list(value.shape) == facts["shape"], name
        if facts.get("sampled"):
            value = value.flatten()[self.official.sample_idx(value.numel())]
        return golden, value

    def error(self, name: str, ours: torch.Tensor, least: float = 1e-5) -> float:
        """Difference over the allowed one: ten times the noise, at least `least`."""
        noise = self.noise.get("per_tensor_[max_abs, rel_l2]", {})
        allowed = max(10 * noise[name][1] if name in noise else 0, least)
        return self.difference(name, ours) / allowed

    def allowed(self, noise: str, least: float) -> float:
        """Ten times the official code's own error of this name, at least `least`."""
        return max(10 * (self.noise.get(noise) or 0), least)


def recorded_images(official, seeds: list[int], sizes: list[tuple[int, int]]) -> torch.Tensor:
    """The images of these seeds as one padded batch."""
    H, W = (-(-max(s[i] for s in sizes) // 32) * 32 for i in (0, 1))
    images = torch.zeros(len(sizes), 3, H, W)
    for image, seed, (h, w) in zip(images, seeds, sizes, strict=True):
        image[:, :h, :w] = torch.from_numpy(official.image(seed, h, w).astype(np.float32))
    return images


def recorded_targets(official, seed, size, count, classes, recipe: Recipe, canvas) -> Targets:
    """The targets of one image, padded to the canvas (height, width)."""
    h, w = size
    labels, masks, boxes = official.targets(seed, h, w, count, classes)
    padded = torch.zeros(count, *canvas, dtype=torch.bool)
    padded[:, :h, :w] = torch.from_numpy(masks).bool()
    whole = (w, h) if recipe.loss.boxes_relative_to == "image" else (canvas[1], canvas[0])
    x0, y0, x1, y1 = (torch.from_numpy(boxes) / torch.tensor([*whole, *whole])).unbind(-1)
    cxcywh = torch.stack(((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), -1)
    return Targets(torch.from_numpy(labels), padded, cxcywh, torch.ones(count))


def named(outputs: Outputs, prefix: str):
    """The record's name of every tensor in our outputs."""
    groups = [(prefix, outputs.layers)]
    if outputs.denoising:
        groups.append((f"{prefix}/dn", outputs.denoising.layers))
    if outputs.encoder:
        groups.append((prefix, [outputs.encoder]))
    for start, layers in groups:
        for layer in layers:
            place = {"final": "", "interm": "interm/"}.get(layer.name, f"aux{layer.name}/")
            for field, tensor in (
                ("pred_logits", layer.logits),
                ("pred_masks", layer.masks),
                ("pred_boxes", layer.boxes_cxcywh),
            ):
                if tensor is not None:
                    yield f"{start}/{place}{field}", tensor

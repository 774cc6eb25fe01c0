"""Replays the golden vectors: the official code's weights, images, targets and draws, under our names."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from gdseg.draws import Draws
from gdseg.models.model import SegmentationModel, build_model
from gdseg.recipe import Recipe
from gdseg.structures import Targets

# official name -> ours, first match; names that match nothing belong to the criterion
_RES, _PIXEL, _PREDICTOR = (
    r"^backbone\.res(\d)\.(\d+)\.",
    r"^sem_seg_head\.pixel_decoder\.",
    r"^sem_seg_head\.predictor\.",
)
NAMES = [
    (r"^backbone\.stem\.conv1\.norm\.", "backbone.body.bn1."),
    (r"^backbone\.stem\.", "backbone.body."),
    (_RES + r"shortcut\.norm\.", r"backbone.body.layer<\1>.\2.downsample.1."),
    (_RES + r"shortcut\.", r"backbone.body.layer<\1>.\2.downsample.0."),
    (_RES + r"conv(\d)\.norm\.", r"backbone.body.layer<\1>.\2.bn\3."),
    (_RES, r"backbone.body.layer<\1>.\2."),
    (_PIXEL + r"adapter_1\.norm\.", "pixel_decoder.lateral.0.1."),
    (_PIXEL + r"adapter_1\.", "pixel_decoder.lateral.0.0."),
    (_PIXEL + r"layer_1\.norm\.", "pixel_decoder.output.0.1."),
    (_PIXEL + r"layer_1\.", "pixel_decoder.output.0.0."),
    (_PIXEL + r"(transformer\.)?(encoder\.)?", "pixel_decoder."),
    (_PREDICTOR + r"transformer_cross_attention_layers\.(\d+)\.norm\.", r"decoder.layers.\1.norm1."),
    (_PREDICTOR + r"transformer_self_attention_layers\.(\d+)\.norm\.", r"decoder.layers.\1.norm2."),
    (_PREDICTOR + r"transformer_ffn_layers\.(\d+)\.norm\.", r"decoder.layers.\1.norm3."),
    (_PREDICTOR + r"transformer_\w+_layers\.(\d+)\.multihead_attn\.", r"decoder.layers.\1.cross_attn."),
    (_PREDICTOR + r"transformer_\w+_layers\.", "decoder.layers."),
    (_PREDICTOR + r"decoder_norm\.", "decoder.norm."),
    (_PREDICTOR + r"decoder\.bbox_embed\.0\.", "decoder.bbox_embed."),
    (_PREDICTOR + r"(decoder\.)?", "decoder."),
]


def our_name(official: str) -> str | None:
    """Our name of an official tensor, None for the criterion's buffer."""
    for pattern, replacement in NAMES:
        name, count = re.subn(pattern, replacement, official)
        if count:
            return re.sub(r"<(\d)>", lambda stage: str(int(stage[1]) - 1), name)
    return None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file."""
    with np.load(path) as stored:
        return dict(stored)


class Golden:
    """One golden configuration."""

    def __init__(self, shared: Path, name: str) -> None:
        folder = shared / "reference" / "golden"
        self.official = _load_recipe_module(folder / "recipe.py")
        self.manifest = json.loads((folder / name / "manifest.json").read_text())
        self.arrays = read_arrays(folder / name / "tensors.npz")
        self.seed = self.manifest["seed"]
        self.results = self.manifest["results"]

    def recipe(self) -> Recipe:
        """Our recipe for the official options."""
        cfg = self.manifest["cfg_model"]
        head, dino, m2f = cfg["SEM_SEG_HEAD"], cfg.get("MaskDINO"), cfg.get("MASK_FORMER")
        recipe = Recipe()
        recipe.backbone.name = f"resnet{cfg['RESNETS']['DEPTH']}"
        pixel, decoder, own = recipe.pixel_decoder, recipe.decoder, dino or m2f
        pixel.channels, pixel.mask_channels = head["CONVS_DIM"], head["MASK_DIM"]
        pixel.layers, pixel.heads = head["TRANSFORMER_ENC_LAYERS"], own["NHEADS"]
        pixel.inputs = head["DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES"]
        decoder.channels, decoder.heads = own["HIDDEN_DIM"], own["NHEADS"]
        decoder.queries, decoder.ffn = own["NUM_OBJECT_QUERIES"], own["DIM_FEEDFORWARD"]
        if dino:
            pixel.ffn = head["DIM_FEEDFORWARD"]
            pixel.extra_levels = head["TOTAL_NUM_FEATURE_LEVELS"] - len(pixel.inputs)
            pixel.level_order = "fine_first" if head["FEATURE_ORDER"] == "low2high" else "coarse_first"
            self._dino(decoder, dino)
        else:
            decoder.kind, pixel.ffn = "mask2former", 1024
            decoder.layers, decoder.pre_norm = m2f["DEC_LAYERS"] - 1, m2f["PRE_NORM"]
        test = own["TEST"]
        recipe.task = "panoptic" if test["PANOPTIC_ON"] else "instance" if test["INSTANCE_ON"] else "semantic"
        post = recipe.postprocess
        post.max_detections = self.manifest["cfg_test_detections_per_image"]
        post.object_threshold, post.overlap_threshold = (
            test["OBJECT_MASK_THRESHOLD"],
            test["OVERLAP_THRESHOLD"],
        )
        post.boxes = "head" if dino else "mask"
        loss, prefix = recipe.loss, "COST_" if dino else ""
        for name in ("class", "mask", "dice", *(("box", "giou") if dino else ())):
            setattr(loss, f"{name}_weight", own[f"{name.upper()}_WEIGHT"])
            setattr(loss, f"{name}_cost", own[f"{prefix}{name.upper()}_WEIGHT"])
        loss.points = own["TRAIN_NUM_POINTS"]
        return recipe

    def _dino(self, decoder, dino) -> None:
        decoder.layers, decoder.two_stage = dino["DEC_LAYERS"], dino["TWO_STAGE"]
        decoder.initial_prediction, decoder.learned_content = dino["INITIAL_PRED"], dino["LEARN_TGT"]
        decoder.box_init = {"no": "none", "mask2box": "mask_to_box", "bitmask": "exact"}[
            dino["INITIALIZE_BOX_TYPE"]
        ]
        decoder.denoising = {"no": "none", "standard": "box", "seg": "mask"}[dino["DN"]]
        decoder.denoising_queries, decoder.box_noise = dino["DN_NUM"], dino["DN_NOISE_SCALE"]
        decoder.label_flip = dino["DN_NOISE_SCALE"] * 0.5
        decoder.class_loss = "softmax" if dino["SEMANTIC_CE_LOSS"] else "focal"

    def model(self) -> SegmentationModel:
        """Our model with the official weights; asserts that they are those and all find a place."""
        items = [(e["key"], e["shape"], e["alias_of"]) for e in self.manifest["state_dict"]]
        arrays = self.official.fill_state_dict(items, self.seed, self.manifest["family"], self.manifest["mf"])
        digest = hashlib.sha256(b"".join(arrays[key].tobytes() for key in sorted(arrays))).hexdigest()
        assert digest == self.manifest["filled_sha256"]
        model = build_model(self.recipe(), self.results["num_classes"])
        aliases = {key for key, _, alias in items if alias is not None}
        ours = {our_name(key): torch.from_numpy(a) for key, a in arrays.items() if key not in aliases}
        missing, unexpected = model.load_state_dict(ours, strict=False)
        assert unexpected == []
        assert [key for key in missing if not key.endswith("num_batches_tracked")] == []
        return model

    def images(self, train: bool) -> tuple[Tensor, list[tuple[int, int]]]:
        """The padded batch and the images' sizes."""
        sizes = [tuple(s[:2]) for s in self.results["train_input_sizes" if train else "eval_input_sizes"]]
        H, W = (-(-max(s[i] for s in sizes) // 32) * 32 for i in (0, 1))
        images = torch.zeros(len(sizes), 3, H, W)
        for i, (h, w) in enumerate(sizes):
            pixels = self.official.image(self.seed * 100 + i + 50 * train, h, w)
            images[i, :, :h, :w] = torch.from_numpy(pixels.astype(np.float32))
        return images, sizes

    def targets(self) -> list[Targets]:
        """Training targets; boxes over the unpadded size, as the official code has them."""
        images, sizes = self.images(train=True)
        targets = []
        for i, ((h, w), n) in enumerate(zip(sizes, self.results["train_num_targets"], strict=True)):
            seed = self.seed * 100 + 50 + i
            labels, masks, boxes = self.official.targets(seed, h, w, n, self.results["num_classes"])
            canvas = torch.zeros(n, *images.shape[-2:], dtype=torch.bool)
            canvas[:, :h, :w] = torch.from_numpy(masks).bool()
            x0, y0, x1, y1 = (torch.from_numpy(boxes) / torch.tensor([w, h, w, h])).unbind(-1)
            cxcywh = torch.stack(((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), -1)
            targets.append(Targets(torch.from_numpy(labels), canvas, cxcywh, torch.ones(n)))
        return targets

    def draws(self) -> Draws:
        """The recorded uniform numbers."""
        official, seed = self.official, self.seed

        class Replay(Draws):
            def rand(self, tag, layers, shape, device):
                if tag == "match":  # recorded image by image
                    tags = [[f"match/{layer}/{b}" for b in range(shape[0])] for layer in layers]
                    drawn = [[official.rand(t, seed, (1, *shape[1:]))[0] for t in row] for row in tags]
                else:
                    drawn = [official.rand(f"{tag}/{layer}", seed, shape) for layer in layers]
                return torch.from_numpy(np.array(drawn)).view(len(layers), *shape).to(device)

            def randint(self, tag, high, shape, device):
                return torch.from_numpy(official.randint(tag, seed, shape, high)).to(device)

        return Replay()

    def worst(self, pairs: dict[str, Tensor | None]) -> dict[str, float]:
        """Relative L2 error of our tensors against the golden ones of these names, over the allowed error."""
        noise = self.manifest["noise_f32_vs_f64"]["per_tensor_[max_abs, rel_l2]"]
        found = {}
        for name, ours in pairs.items():
            golden = torch.from_numpy(self.arrays[name.replace("/", "|")].astype(np.float32))
            value = ours.detach().float()
            assert list(value.shape) == self.manifest["tensors"][name]["shape"], name
            if self.manifest["tensors"][name].get("sampled"):
                value = value.flatten()[self.official.sample_idx(value.numel())]
            error = (value - golden).norm() / golden.norm().clamp(min=1e-12)
            allowed = max(10 * noise[name][1] if name in noise else 0, 1e-5)
            found[name] = float(error) / allowed
        return found


def _load_recipe_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

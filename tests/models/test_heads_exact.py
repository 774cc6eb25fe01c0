"""Both decoders against the official ones written out (`official_heads.py`), for options that no record here has.

Weights travel under official names: ours to official ones, by the official options back to a recipe, and what that
recipe's model says of random maps is compared with what the official order of things gives in float64. Where recorded
runs of the official code are on the machine, the written-out heads are held to those first.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from official_heads import Heads, sine

from gdseg.draws import Draws
from gdseg.models.denoising import blocked_attention, noised_queries
from gdseg.models.model import build_model
from gdseg.structures import Targets
from gdseg.train.convert import convert_state_dict, to_official
from gdseg.train.convert.defaults import MASK_FORMER, MASKDINO, MODEL
from gdseg.train.convert.identify import recipe_of
from gdseg.train.convert.options import recipe_keys

SMALL = {"NUM_OBJECT_QUERIES": 12, "DIM_FEEDFORWARD": 48, "DROPOUT": 0.0}
LOW, ALL = {"FEATURE_ORDER": "low2high"}, ["res2", "res3", "res4", "res5"]
INPUTS = "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES"
M2F = {  # options of the head, options of the decoder
    "plain": ({}, {}),
    "pre_norm_projected": ({"MASK_DIM": 48}, {"HIDDEN_DIM": 96, "PRE_NORM": True}),
    "projected_for_its_own_sake": ({}, {"ENFORCE_INPUT_PROJ": True}),
}
DINO = {
    "3s_bitmask": ({"TOTAL_NUM_FEATURE_LEVELS": 3}, {"INITIALIZE_BOX_TYPE": "bitmask"}),
    "4s_no": (LOW, {}),
    "4s_mask2box": (LOW, {"INITIALIZE_BOX_TYPE": "mask2box"}),
    "4s_bitmask": (LOW, {"INITIALIZE_BOX_TYPE": "bitmask"}),
    "4s_high2low": ({}, {}),
    "res2to5": ({**LOW, INPUTS: ALL, "TOTAL_NUM_FEATURE_LEVELS": 5}, {}),
    "res2to5_high2low": ({INPUTS: ALL, "TOTAL_NUM_FEATURE_LEVELS": 5}, {"INITIALIZE_BOX_TYPE": "bitmask"}),
    "5lvl_high2low": ({"TOTAL_NUM_FEATURE_LEVELS": 5}, {}),
    "5lvl_low2high": ({**LOW, "TOTAL_NUM_FEATURE_LEVELS": 5}, {"INITIALIZE_BOX_TYPE": "mask2box"}),
    "dn_standard": (LOW, {"DN": "standard"}),
    "dn_no": (LOW, {"DN": "no"}),
    "learn_tgt_proj": ({**LOW, "CONVS_DIM": 64}, {"LEARN_TGT": True}),
    "projected_for_its_own_sake": (LOW, {"ENFORCE_INPUT_PROJ": True}),
    "onestage": (LOW, {"TWO_STAGE": False}),
    "onestage_noinitpred": (LOW, {"TWO_STAGE": False, "INITIAL_PRED": False}),
    "noinitpred": (LOW, {"INITIAL_PRED": False}),
    "semantic_ce": (LOW, {"SEMANTIC_CE_LOSS": True}),
}


def official_options(family: str, name: str) -> dict:
    """A MODEL node with small sizes and the case's options."""
    dino = family == "MaskDINO"
    head, own = (DINO if dino else M2F)[name]
    names = ("MaskDINOHead", "MaskDINOEncoder") if dino else ("MaskFormerHead", "MSDeformAttnPixelDecoder")
    small = {"NUM_CLASSES": 6, "MASK_DIM": 32, "TRANSFORMER_ENC_LAYERS": 2, "DIM_FEEDFORWARD": 40}
    small |= {"NAME": names[0], "PIXEL_DECODER_NAME": names[1], "CONVS_DIM": 256 if dino else 64}
    sizes = {"HIDDEN_DIM": 256, "DEC_LAYERS": 3} if dino else {"HIDDEN_DIM": 64, "NHEADS": 4, "DEC_LAYERS": 5}
    return {
        **MODEL,
        "RESNETS": {**MODEL["RESNETS"], "DEPTH": 18},
        "SEM_SEG_HEAD": {**MODEL["SEM_SEG_HEAD"], **small, **head},
        family: {**(MASKDINO if dino else MASK_FORMER), **SMALL, **sizes, **own},
    }


def scatter(model: torch.nn.Module) -> None:
    """Weights under which nothing is zero, saturates, or is the same for two queries."""
    torch.manual_seed(0)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.dim() > 1:
                one_a_row = key.endswith(
                    ("query_feat.weight", "query_embed.weight", "label_enc.weight", "level_embed")
                )
                p.normal_(std=1.0 if one_a_row else p[0].numel() ** -0.5)
            else:
                p.normal_(mean=1.0 if "norm" in key and key.endswith("weight") else 0.0, std=0.1)


def maps() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    sizes = {"res2": (64, 24, 32), "res3": (128, 12, 16), "res4": (256, 6, 8), "res5": (512, 3, 4)}
    return {name: torch.randn(2, *size) for name, size in sizes.items()}


def some_targets() -> list[Targets]:
    torch.manual_seed(2)
    return [
        Targets(torch.arange(n), torch.zeros(n, 8, 8).bool(), torch.rand(n, 4) * 0.4 + 0.3, torch.ones(n))
        for n in (3, 1)
    ]


def off(ours: torch.Tensor, official: torch.Tensor) -> float:
    """Relative L2 difference."""
    assert ours.shape == official.shape
    return float((ours.double() - official).norm() / official.norm())


class Pair:
    """A model of the case's options and the written-out heads with its weights under official names."""

    def __init__(self, family: str, name: str) -> None:
        self.options = official_options(family, name)
        keys = recipe_keys(self.options)
        self.recipe = recipe_of({key: value for key, value in keys.items() if "." in key or key == "task"})
        self.model = build_model(self.recipe, 6, load_weights=False)
        scatter(self.model)
        official = to_official(self.model.state_dict(), self.recipe, 6)
        found, state, report = convert_state_dict(official, self.options)
        assert (found, report.differences) == (self.recipe, [])
        self.model.load_state_dict(state)
        self.heads = Heads({key: value.double() for key, value in official.items()}, self.options)

    def pyramids(self):
        """Ours, and (mask features, levels) of the official one, which are checked to be equal."""
        ours = self.model.pixel_decoder(maps())
        features, levels = self.heads.pixel_decoder({key: value.double() for key, value in maps().items()})
        assert off(ours.mask_features, features) < 1e-5
        assert max(off(*pair) for pair in zip(ours.levels, levels, strict=True)) < 1e-5
        return ours, (features, levels)

    def noised(self, targets):
        """Denoising content, anchors and blocked attention, which recorded runs hold; None without."""
        decoder = self.recipe.decoder
        if targets is None or decoder.denoising == "none":
            return None
        queries = noised_queries(targets, self.model.decoder.label_enc, decoder, Draws())
        blocked = blocked_attention(queries.groups, queries.slots, decoder.queries, torch.device("cpu"))
        return queries.content.double(), queries.anchors.double(), blocked


@torch.no_grad()
@pytest.mark.parametrize("name", M2F)
def test_mask2former_options_that_no_record_has(name):
    pair = Pair("MASK_FORMER", name)
    ours, theirs = pair.pyramids()
    compare(pair.model.eval().decoder(ours).layers, pair.heads.mask2former(*theirs))


@torch.no_grad()
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", DINO)
def test_mask_dino_options_that_no_record_has(name, train):
    pair = Pair("MaskDINO", name)
    ours, theirs = pair.pyramids()
    targets = some_targets() if train else None
    torch.manual_seed(3)
    outputs = pair.model.train(train).decoder(ours, targets, Draws())
    torch.manual_seed(3)
    noised = pair.noised(targets)
    at = 0 if noised is None else noised[0].shape[1]
    expected, encoder = pair.heads.maskdino(*theirs, noised)
    compare(outputs.layers, [{key: value[:, at:] for key, value in layer.items()} for layer in expected])
    compare([outputs.encoder] if outputs.encoder else [], [encoder] if encoder else [])
    first = 0 if pair.recipe.decoder.two_stage else 1  # officially without a loss
    parts = [{key: value[:, :at] for key, value in layer.items()} for layer in expected[first:]]
    compare(outputs.denoising.layers if outputs.denoising else [], parts if at else [])


@torch.no_grad()
@pytest.mark.parametrize(("score", "same"), [("objects", True), ("all", False)])
def test_no_object_selects_tokens_only_as_officially(score, same):
    """The last row of the classifier is no-object's: other weights there must not change which tokens are chosen."""
    pair = Pair("MaskDINO", "semantic_ce")
    decoder = pair.model.eval().decoder
    decoder.options.token_score = score
    before = decoder(pair.model.pixel_decoder(maps())).encoder.boxes_cxcywh
    decoder.class_embed.weight[-1] = 9 * torch.randn(256)
    after = decoder(pair.model.pixel_decoder(maps())).encoder.boxes_cxcywh
    assert torch.equal(before, after) == same


def compare(ours, official) -> None:
    """Every layer's logits, masks and boxes."""
    assert len(ours) == len(official)
    for layer, theirs in zip(ours, official, strict=True):
        assert off(layer.logits, theirs["pred_logits"]) < 1e-5
        assert layer.masks is None or off(layer.masks, theirs["pred_masks"]) < 1e-5
        assert layer.boxes_cxcywh is None or off(layer.boxes_cxcywh, theirs["pred_boxes"]) < 1e-5


RECORDS = [
    "m2f_inst_r18_tiny",
    "mdino_inst_4s_mask2box",
    "mdino_inst_dn_no",
    "mdino_inst_onestage",
    "mdino_sem_ade_ce",
]


@pytest.mark.parametrize("name", RECORDS)
def test_the_written_out_heads_are_the_official_ones(shared_dir, name):
    sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
    from golden_cases import Case
    from golden_network import Network

    case = Case(shared_dir / "reference" / "golden" / name)
    network = Network(case)
    heads = Heads({key: value.double() for key, value in network.tensors.items()}, network.options)
    images, sizes = network.images(train=False)
    model = network.model.eval()
    with torch.no_grad():
        normal = (images - model.mean) / model.std
        for image, (h, w) in zip(normal, sizes, strict=True):
            image[:, h:], image[:, :, w:] = 0, 0
        features = model.backbone(normal)
        mask_features, levels = heads.pixel_decoder({key: value.double() for key, value in features.items()})
        layers, encoder = (heads.maskdino if heads.dino else lambda *x: (heads.mask2former(*x), None))(
            mask_features, levels
        )
    found = {"mask_features": mask_features, **{f"multi_scale/{i}": level for i, level in enumerate(levels)}}
    places = [*(f"aux{i}/" for i in range(len(layers) - 1)), "", "interm/"]
    for place, layer in zip(places, [*layers, encoder] if encoder else layers, strict=False):
        found |= {place + key: value for key, value in layer.items()}
    recorded = network.recorded("eval/") - network.recorded("eval/backbone")
    assert {f"eval/{key}" for key in found} >= recorded
    assert max(network.error(key, found[key.removeprefix("eval/")]) for key in recorded) < 1


def test_sine_by_hand():
    """The first row and column of a map of 2 x 3, four channels: sin and cos of y, then of x."""
    like = torch.zeros(1, 4, 2, 3, dtype=torch.float64)
    y, x = 1 / (2 + 1e-6) * 2 * np.pi, 2 / (3 + 1e-6) * 2 * np.pi
    assert sine(2, 3, like)[1].tolist() == pytest.approx([np.sin(y), np.cos(y), np.sin(x), np.cos(x)])

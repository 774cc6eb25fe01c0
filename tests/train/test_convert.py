"""Official state dicts: there and back, every tensor accounted for, every misfit named.

No reference data needed.
"""

import json
import re

import pytest
import torch

from gdseg.errors import CheckpointError
from gdseg.models.model import build_model
from gdseg.recipe import Recipe
from gdseg.train.convert import convert_state_dict, to_official
from gdseg.train.convert.classes import classes_of, named, numbered
from gdseg.train.convert.defaults import MASKDINO, MODEL
from gdseg.train.convert.huggingface import as_official
from gdseg.train.convert.identify import published
from gdseg.train.convert.options import recipe_keys
from gdseg.train.convert.tensors import bare_model

PREDICTOR = "sem_seg_head.predictor."


def small(kind: str, backbone: str = "resnet18") -> Recipe:
    """A model of official parts with small widths; Mask DINO has every renamed and shared part."""
    recipe = Recipe()
    recipe.backbone.name, recipe.decoder.kind = backbone, kind
    pixel, decoder = recipe.pixel_decoder, recipe.decoder
    pixel.channels = pixel.mask_channels = decoder.channels = 32
    pixel.layers, pixel.ffn, pixel.heads, decoder.heads = 2, 1024, 8, 8  # what Mask2Former fixes
    decoder.layers, decoder.ffn, decoder.queries = 3, 32, 7
    if kind == "maskdino":
        decoder.channels = pixel.channels = 256  # what Mask DINO fixes
        pixel.ffn, pixel.extra_positions = 32, "swapped"
        pixel.extra_levels, pixel.level_order = 1, "fine_first"
        decoder.learned_content = True
    return recipe


@pytest.fixture(scope="module", params=["mask2former", "maskdino"])
def official(request):
    """(recipe, our state dict, the official one) of a network with random weights and 5 classes."""
    torch.manual_seed(0)
    recipe = small(request.param)
    ours = build_model(recipe, 5, load_weights=False).state_dict()
    return recipe, ours, to_official(ours, recipe, 5)


def test_there_and_back(official):
    recipe, ours, theirs = official
    found, state, report = convert_state_dict(theirs)
    assert (found.backbone.name, found.pixel_decoder.inputs) == ("resnet18", ["res3", "res4", "res5"])
    for part in ("channels", "layers", "ffn", "queries", "kind", "two_stage", "learned_content"):
        if recipe.decoder.kind == "maskdino" or part in ("channels", "layers", "ffn", "queries", "kind"):
            assert getattr(found.decoder, part) == getattr(recipe.decoder, part), part
    assert found.pixel_decoder.level_order == recipe.pixel_decoder.level_order
    assert report.num_classes == 5
    assert report.family == {"mask2former": "Mask2Former", "maskdino": "Mask DINO"}[recipe.decoder.kind]
    assert report.configuration in published()
    assert any("num_classes: 5" in difference for difference in report.differences)
    build_model(found, 5, load_weights=False).load_state_dict(state)
    assert state.keys() == ours.keys()
    assert all(torch.equal(state[key], ours[key]) for key in ours)
    assert len(report.mapped) + len(report.merged) + len(report.ignored) == len(theirs)
    assert len(report.merged) == (0 if recipe.decoder.kind == "mask2former" else 6 * 2 * 3 + 2)


def test_heads_that_only_the_encoder_shows_are_the_decoders_too():
    """Officially one option sets both in Mask2Former; published networks have 8, of which nothing is assumed."""
    recipe = small("mask2former")
    recipe.pixel_decoder.heads = recipe.decoder.heads = 4
    official = to_official(bare_model(recipe, 5).state_dict(), recipe, 5)
    found = convert_state_dict(official)[0]
    assert (found.pixel_decoder.heads, found.decoder.heads) == (4, 4)


@pytest.mark.parametrize(("two_stage", "score"), [(True, "all"), (False, "objects")])
def test_tokens_of_a_softmax_network_are_chosen_as_officially_without_options(two_stage, score):
    recipe = small("maskdino")
    recipe.decoder.class_loss, recipe.decoder.token_score, recipe.task = "softmax", "all", "semantic"
    recipe.decoder.two_stage, recipe.decoder.learned_content = two_stage, False
    official = to_official(bare_model(recipe, 5).state_dict(), recipe, 5)
    found = convert_state_dict(official)[0].decoder
    assert (found.class_loss, found.two_stage) == ("softmax", two_stage)
    assert found.token_score == score


def test_old_spellings_and_wrappers(official):
    _, ours, theirs = official
    renamed = (
        {
            "module." + key.replace("query_feat", "static_query").replace("pixel_decoder.", ""): value
            for key, value in theirs.items()
        }
        if official[0].decoder.kind == "mask2former"
        else {"module." + k: v for k, v in theirs.items()}
    )
    _, state, _ = convert_state_dict(renamed)
    assert all(torch.equal(state[key], ours[key]) for key in ours)


def test_roles_of_an_ensemble(official):
    _, ours, theirs = official
    both = {f"modelTeacher.{k}": v for k, v in theirs.items()} | {
        f"modelStudent.{k}": v + 1 for k, v in theirs.items()
    }
    both |= {
        f"{prefix}.ssl_criterion.empty_weight": torch.ones(6) for prefix in ("modelTeacher", "modelStudent")
    }
    key = "pixel_decoder.mask_features.bias"
    for role, shift in ((None, 0), ("teacher", 0), ("student", 1)):
        _, state, report = convert_state_dict(both, role=role)
        assert torch.equal(state[key], ours[key] + shift)
        assert (report.role, report.family) == (role or "teacher", "Guided Distillation")
    teacher = {k: v for k, v in both.items() if k.startswith("modelTeacher.")}
    with pytest.raises(CheckpointError, match="without a student"):
        convert_state_dict(teacher, role="student")
    with pytest.raises(CheckpointError, match="one network"):
        convert_state_dict(theirs, role="student")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.update({PREDICTOR + "mask_embed.layers.0.bias": torch.zeros(31)}),
            r"mask_embed.layers.0.bias is \[31\], the model.s \[(32|256)\]",
        ),
        (lambda s: s.pop(PREDICTOR + "mask_embed.layers.1.bias"), "lacks .*mask_embed.layers.1.bias"),
        (
            lambda s: s.update({PREDICTOR + "extra.weight": torch.zeros(1)}),
            "has .*extra.weight, which the model lacks",
        ),
        (lambda s: s.pop("sem_seg_head.pixel_decoder.mask_features.weight"), "mask_features.weight"),
    ],
)
def test_misfits_are_named(official, change, message):
    state = dict(official[2])
    change(state)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_state_dict(state)
    assert caught.value.exit_code == 4


def test_copies_of_a_shared_tensor_must_agree():
    recipe = small("maskdino")
    state = to_official(build_model(recipe, 5, load_weights=False).state_dict(), recipe, 5)
    state[PREDICTOR + "bbox_embed.1.layers.0.bias"] = torch.ones(256)
    with pytest.raises(CheckpointError, match=r"bbox_embed\.1\.layers\.0\.bias differs"):
        convert_state_dict(state)


@pytest.mark.parametrize(
    "state", [{}, {"encoder.layer.0.weight": torch.zeros(3)}, {"model.x": torch.zeros(1)}]
)
def test_unknown_families(state):
    with pytest.raises(CheckpointError, match="does not know"):
        convert_state_dict(state)


def test_parts_of_ours_alone_do_not_go_back():
    recipe = small("maskdino")
    recipe.decoder.mask_prior = "ellipse"
    with pytest.raises(CheckpointError, match=r"no counterpart of decoder\.mask_prior"):
        to_official(bare_model(recipe, 5).state_dict(), recipe, 5)
    recipe = small("maskdino", "mobilenetv3_small_050")
    with pytest.raises(CheckpointError, match="no counterpart of backbone"):
        to_official(bare_model(recipe, 5).state_dict(), recipe, 5)


@pytest.mark.parametrize("name", published())
def test_every_published_configuration_is_a_recipe(name):
    keys = published()[name]
    from gdseg.train.convert.identify import recipe_of

    recipe = recipe_of({k: v for k, v in keys.items() if "." in k or k == "task"})
    known = "mapillary" not in keys["dataset"]
    table = classes_of(keys["dataset"], keys["num_classes"])
    assert (table is not None) == known
    assert table is None or len({c.id for c in table}) == len({c.name for c in table}) == keys["num_classes"]
    assert recipe.decoder.kind == ("maskdino" if name.startswith("mask_dino") else "mask2former")


def test_cross_entropy_of_mask_dino_is_for_semantic_networks():
    """Officially it counts where SEMANTIC_ON is, and a panoptic network with it has an output that nothing reads."""
    own = {**MASKDINO, "SEMANTIC_CE_LOSS": True}
    head = {**MODEL["SEM_SEG_HEAD"], "NAME": "MaskDINOHead", "PIXEL_DECODER_NAME": "MaskDINOEncoder"}

    def class_loss(**test):
        found = recipe_keys(
            {**MODEL, "SEM_SEG_HEAD": head, "MaskDINO": {**own, "TEST": {**own["TEST"], **test}}}
        )
        return found["decoder.class_loss"]

    assert class_loss() == "softmax"
    assert class_loss(SEMANTIC_ON=False, INSTANCE_ON=True) == "focal"
    with pytest.raises(CheckpointError, match="PANOPTIC_ON exclude"):
        class_loss(PANOPTIC_ON=True)


def test_class_names_of_known_data():
    def ids(dataset, count):
        return [info.id for info in classes_of(dataset, count)]

    coco = classes_of("coco_2017_val", 80)
    assert [(c.id, c.name, c.is_thing) for c in coco[:2]] == [(1, "person", True), (2, "bicycle", True)]
    assert coco[-1].id == 90
    panoptic = classes_of("coco_2017_val_panoptic_with_sem_seg", 133)
    assert (panoptic[:80], sum(c.is_thing for c in panoptic), panoptic[-1].id) == (coco, 80, 200)
    assert ids("cityscapes_fine_instance_seg_val", 8) == [24, 25, 26, 27, 28, 31, 32, 33]
    assert [c.id for c in classes_of("cityscapes_fine_panoptic_val", 19) if c.is_thing] == ids(
        "cityscapes_instance", 8
    )
    assert classes_of("mine", 2) is None
    assert classes_of("coco_2017_val", 79) is None
    assert [(c.id, c.name) for c in numbered(2)] == [(0, "class 0"), (1, "class 1")]
    other = named(coco, [f"n{i}" for i in range(80)])
    assert (other[79].id, other[79].name) == (90, "n79")


def test_classes_of_ade20k():
    """Known places: detectron2's jsons count from 0 (bed is 7, flag 149), SceneParse150's maps from 1."""
    semantic, panoptic, instance = (
        classes_of(f"ade20k_{kind}_val", count)
        for kind, count in (("sem_seg", 150), ("panoptic", 150), ("instance", 100))
    )
    assert [c.id for c in semantic] == list(range(1, 151))
    assert [c.id for c in panoptic] == list(range(150))
    assert [c.name for c in panoptic] == [c.name for c in semantic]
    assert instance == [c for c in panoptic if c.is_thing]
    assert [c.id for c in instance[:8]] == [7, 8, 10, 12, 14, 15, 18, 19]
    assert (instance[0].name, instance[-1].name, instance[-1].id) == ("bed", "flag", 149)
    stuff = {c.name for c in panoptic if not c.is_thing}
    assert {"wall", "sky", "sea", "river", "tent", "lake"} <= stuff
    assert not {"person", "bicycle", "table", "flag"} & stuff


HF = [  # official -> transformers, as its conversion script names them
    (r"^backbone\.patch_embed\.proj\.", "model.pixel_level_module.encoder.embeddings.patch_embeddings.projection."),
    (r"^backbone\.patch_embed\.norm\.", "model.pixel_level_module.encoder.embeddings.norm."),
    (r"^backbone\.norm(\d)\.", r"model.pixel_level_module.encoder.hidden_states_norms.stage<\1>."),
    (r"^backbone\.layers\.", "model.pixel_level_module.encoder.encoder.layers."),
    (r"^sem_seg_head\.pixel_decoder\.(adapter_1|layer_1)\.norm\.", r"model.pixel_level_module.decoder.\1.1."),
    (r"^sem_seg_head\.pixel_decoder\.(adapter_1|layer_1)\.", r"model.pixel_level_module.decoder.\1.0."),
    (r"^sem_seg_head\.pixel_decoder\.input_proj\.", "model.pixel_level_module.decoder.input_projections."),
    (r"^sem_seg_head\.pixel_decoder\.mask_features\.", "model.pixel_level_module.decoder.mask_projection."),
    (r"^sem_seg_head\.pixel_decoder\.transformer\.", "model.pixel_level_module.decoder."),
    (r"^sem_seg_head\.predictor\.query_feat\.", "model.transformer_module.queries_features."),
    (r"^sem_seg_head\.predictor\.query_embed\.", "model.transformer_module.queries_embedder."),
    (r"^sem_seg_head\.predictor\.level_embed\.", "model.transformer_module.level_embed."),
    (r"^sem_seg_head\.predictor\.class_embed\.", "class_predictor."),
    (r"^sem_seg_head\.predictor\.decoder_norm\.", "model.transformer_module.decoder.layernorm."),
    (
        r"^sem_seg_head\.predictor\.mask_embed\.layers\.(\d)\.",
        r"model.transformer_module.decoder.mask_predictor.mask_embedder.\1.0.",
    ),
    (
        r"^sem_seg_head\.predictor\.transformer_(self|cross)_attention_layers\.(\d+)\.norm\.",
        r"model.transformer_module.decoder.layers.\2.\1_attn_layer_norm.",
    ),
    (
        r"^sem_seg_head\.predictor\.transformer_(self|cross)_attention_layers\.(\d+)\.\w+_attn\.",
        r"model.transformer_module.decoder.layers.\2.\1_attn.",
    ),
    (
        r"^sem_seg_head\.predictor\.transformer_ffn_layers\.(\d+)\.norm\.",
        r"model.transformer_module.decoder.layers.\1.final_layer_norm.",
    ),
    (
        r"^sem_seg_head\.predictor\.transformer_ffn_layers\.(\d+)\.linear(\d)\.",
        r"model.transformer_module.decoder.layers.\1.fc\2.",
    ),
]  # fmt: skip
HF_LATER = [
    (r"(decoder\.encoder\.layers\.\d+)\.linear(\d)", r"\1.fc\2"),
    (r"(decoder\.encoder\.layers\.\d+)\.norm1", r"\1.self_attn_layer_norm"),
    (r"(decoder\.encoder\.layers\.\d+)\.norm2", r"\1.final_layer_norm"),
    (r"(blocks\.\d+)\.norm1", r"\1.layernorm_before"),
    (r"(blocks\.\d+)\.norm2", r"\1.layernorm_after"),
    (r"(blocks\.\d+)\.attn\.proj", r"\1.attention.output.dense"),
    (r"(blocks\.\d+)\.attn\.", r"\1.attention.self."),
    (r"(blocks\.\d+)\.mlp\.fc1", r"\1.intermediate.dense"),
    (r"(blocks\.\d+)\.mlp\.fc2", r"\1.output.dense"),
]


def as_huggingface(official: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {}
    for key, value in official.items():
        name = key
        for pattern, replacement in HF:
            name, count = re.subn(pattern, replacement, key)
            if count:
                break
        for pattern, replacement in HF_LATER:
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"<(\d)>", lambda m: str(int(m[1]) + 1), name)
        if ".self.qkv." in name:
            parts = [name.replace("qkv", part) for part in ("query", "key", "value")]
        elif "layers" in name and ".self_attn.in_proj_" in name:
            parts = [name.replace("in_proj_", f"{part}_proj.") for part in "qkv"]
        else:
            parts = [name]
        found |= dict(zip(parts, value.chunk(len(parts)) if len(parts) > 1 else [value], strict=True))
    return found


def test_hugging_face_names():
    recipe = small("mask2former", "swin_tiny_patch4_window7_224")
    recipe.backbone.norm = "live"
    model = build_model(recipe, 5, load_weights=False)
    official = to_official(model.state_dict(), recipe, 5)
    foreign = as_huggingface(official)
    assert not any(key.startswith(("sem_seg_head", "backbone")) for key in foreign)
    renamed = as_official(foreign)
    assert renamed.keys() == official.keys()
    later = {
        f"model.pixel_level_module.encoder.swin.layernorm.{kind}": torch.ones(768)
        for kind in ("weight", "bias")
    }
    _, state, report = convert_state_dict(as_official(foreign | later))  # as transformers 5 writes them
    assert later.keys() <= report.ignored.keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("file", "dataset"),
    [
        ("instances_val2017.json", "coco_2017_val"),
        ("panoptic_val2017.json", "coco_2017_val_panoptic_with_sem_seg"),
    ],
)
def test_classes_of_coco_are_those_of_its_files(shared_dir, file, dataset):
    given = json.loads((shared_dir / "data" / "coco" / "annotations" / file).read_text())["categories"]
    theirs = [(c["id"], c["name"], bool(c.get("isthing", 1))) for c in given]
    assert [(c.id, c.name, c.is_thing) for c in classes_of(dataset, len(theirs))] == theirs

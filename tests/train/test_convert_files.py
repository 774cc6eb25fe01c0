"""Weight files from elsewhere.

Read without running anything, refused with a reason, converted by the command.
"""

import io
import json
import os
import pickle
import sys

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from gdseg.errors import CheckpointError
from gdseg.models.backbone import Backbone
from gdseg.models.checkpoint import load_network
from gdseg.models.model import build_model
from gdseg.recipe import Backbone as Options
from gdseg.recipe import Recipe
from gdseg.train.convert import convert_state_dict, to_official
from gdseg.train.convert.files import Wanted, convert_file, export_official
from gdseg.train.convert.readers import read_tensors
from gdseg.train.convert.yaml_files import read_options


def tiny_official():
    recipe = Recipe()
    recipe.backbone.name, recipe.decoder.kind = "resnet18", "mask2former"
    pixel, decoder = recipe.pixel_decoder, recipe.decoder
    pixel.channels = pixel.mask_channels = decoder.channels = 32
    pixel.layers, pixel.ffn, decoder.layers, decoder.ffn, decoder.queries = 1, 1024, 1, 32, 7
    state = build_model(recipe, 3, load_weights=False).state_dict()
    return state, to_official(state, recipe, 3)


class Evil:
    """Unpickling this would make a file."""

    def __init__(self, marker) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".bin"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_that_imports_is_refused_and_runs_nothing(tmp_path, suffix, nested):
    path, marker = tmp_path / f"evil{suffix}", tmp_path / "marker"
    content = {"model": {"a": Evil(marker)}}
    if suffix == ".pkl":
        inner = io.BytesIO()
        torch.save(content, inner)
        call = (torch.storage._load_from_bytes, (inner.getvalue(),))
        wrapped = {"model": type("Carrier", (), {"__reduce__": lambda self: call})()} if nested else content
        path.write_bytes(_pickled(wrapped))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not nested)
    with pytest.raises(CheckpointError, match="refused: the pickle wants to import") as caught:
        read_tensors(path)
    assert caught.value.exit_code == 4
    assert not marker.exists()


def _pickled(content) -> bytes:
    return pickle.dumps(content, protocol=2)


@pytest.mark.parametrize("name", ["builtins.eval", "os.system", "numpy.load", "torch.load", "gdseg.predict"])
def test_no_name_outside_the_list_is_imported(tmp_path, name):
    module, function = name.rsplit(".", 1)
    path = tmp_path / "a.pkl"
    path.write_bytes(f"c{module}\n{function}\n(S'x'\ntR.".encode())
    with pytest.raises(CheckpointError, match="refused"):
        read_tensors(path)


def test_broken_files_are_errors(tmp_path):
    torch.save({"model": {"a": torch.ones(1000)}}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    pickled = _pickled({"model": {"a": np.ones(1000, np.float32)}})
    for name, content in {
        "cut.pth": whole[:500],
        "cut.pkl": pickled[:500],
        "text.pth": b"hello",
        "text.pkl": b"hello",
        "empty.pkl": b"",
        "cut.safetensors": b"\x10",
        "huge.pkl": _pickled(np.ones(3)).replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"),
        "list.pkl": _pickled([1, 2]),
        "none.pkl": _pickled({"model": {"a": "text"}}),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError):
            read_tensors(tmp_path / name)
    with pytest.raises(CheckpointError, match="no such file"):
        read_tensors(tmp_path / "absent.pth")


def test_arrays_and_tensors_of_every_kind_are_read(tmp_path):
    arrays = {
        "f4": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
        "i8": np.array(7),
        "f2": np.ones(3, np.float16),
    }
    mixed = {**arrays, "t": torch.ones(2, 2), "words": "not a tensor"}
    (tmp_path / "a.pkl").write_bytes(
        _pickled({"model": mixed, "__author__": "x", "matching_heuristics": True})
    )
    found = read_tensors(tmp_path / "a.pkl")
    assert found.keys() == {"f4", "i8", "f2", "t"}
    assert found["f4"].tolist() == arrays["f4"].tolist()
    assert found["t"].tolist() == [[1, 1], [1, 1]]


def test_a_trainer_file_becomes_a_network_and_goes_back(tmp_path):
    ours, official = tiny_official()
    torch.save({"model": official, "trainer": {"iteration": 9}, "iteration": 9}, tmp_path / "m.pth")
    report = convert_file(tmp_path / "m.pth", tmp_path / "m.safetensors", Wanted(classes=["a", "b", "c"]))
    network = load_network(tmp_path / "m.safetensors")
    assert (network.classes, network.category_ids) == (["a", "b", "c"], [0, 1, 2])
    assert all(torch.equal(network.model.state_dict()[key], value) for key, value in ours.items())
    assert report.counts()["missing"] == 20
    export_official(tmp_path / "m.safetensors", tmp_path / "back.pth")
    back = read_tensors(tmp_path / "back.pth")
    assert back.keys() == official.keys()
    assert all(torch.equal(back[key], official[key]) for key in official)
    with pytest.raises(CheckpointError, match="3 classes"):
        convert_file(tmp_path / "m.pth", tmp_path / "n.safetensors", Wanted(classes=["a"]))


def test_a_hugging_face_folder_names_its_classes(tmp_path):
    sys.path.insert(0, str(os.path.dirname(__file__)))
    recipe = Recipe()
    recipe.backbone.name, recipe.backbone.norm, recipe.decoder.kind = (
        "swin_tiny_patch4_window7_224",
        "live",
        "mask2former",
    )
    recipe.pixel_decoder.layers = recipe.decoder.layers = 1
    from test_convert import as_huggingface

    official = to_official(build_model(recipe, 2, load_weights=False).state_dict(), recipe, 2)
    foreign = {key: value.clone().contiguous() for key, value in as_huggingface(official).items()}
    save_file(foreign, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog"}}))
    report = convert_file(tmp_path, tmp_path / "out.safetensors", Wanted())
    assert report.classes == ["cat", "dog"]
    assert "Hugging Face" in report.family
    assert "model card" in report.license
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="id2label"):
        convert_file(tmp_path, tmp_path / "out2.safetensors", Wanted())


BACKBONES = {
    "resnet18": {},
    "swin_tiny_patch4_window7_224": {"always_partition": True},
    "vit_small_patch14_dinov2": {"img_size": 518},
}


def foreign_files(name: str, whole: torch.nn.Module):
    """What others call the tensors of a timm network."""
    state = whole.state_dict()
    yield "timm", state
    if name == "resnet18":
        recipe = Recipe()
        recipe.backbone.name = name
        from gdseg.train.convert.names import official_names

        body = {k: v for k, v in state.items() if not k.startswith("fc.")}
        names = {k: official_names(f"backbone.body.{k}", recipe)[0].removeprefix("backbone.") for k in body}
        yield (
            "detectron2",
            {names[k]: v.numpy() for k, v in body.items()} | {"stem.fc.weight": np.zeros((3, 3))},
        )
    if name.startswith("swin"):  # the official code merges patches at the end of a stage
        moved = {}
        for key, value in state.items():
            stage = int(key.split(".")[1]) if key.startswith("layers.") else 0
            early = ".downsample." in key
            moved[key.replace(f"layers.{stage}.", f"layers.{stage - 1}.") if early else key] = value
        yield "official", moved


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_files_load_and_give_the_same_maps(tmp_path, name):
    torch.manual_seed(0)
    whole = timm.create_model(name, **BACKBONES[name]).eval()
    for kind, state in foreign_files(name, whole):
        source, target = tmp_path / f"{kind}.pkl", tmp_path / f"{kind}.safetensors"
        source.write_bytes(_pickled({"model": state, "matching_heuristics": True}))
        report = convert_file(source, target, Wanted())
        assert report.configuration == name
        assert load_file(target)
        with torch.no_grad():
            body = Backbone(Options(name=name, weights=str(target))).eval().body
            size = BACKBONES[name].get("img_size", 224)
            image = torch.randn(1, 3, size, size)
            expected = whole.forward_intermediates(image, intermediates_only=True, norm=False)[-1]
            found = body(image)[-1]
            found = found.permute(0, 3, 1, 2) if found.shape[1:3] == found.shape[1:2] * 2 else found
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_official_yaml_with_its_base(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "MODEL:\n  BACKBONE: {FREEZE_AT: 0, NAME: build_resnet_backbone}\n  PIXEL_STD: [58.395, 57.120, 57.375]\n"
        "  RESNETS: {DEPTH: 50, STRIDE_IN_1X1: False}\nSOLVER:\n  STEPS: (327778, 355092)\n  MAX_ITER: 368750\n"
        "  BASE_LR: 1e-4\nDATASETS: {TEST: ('coco_2017_val',)}\n"
    )
    (tmp_path / "own.yaml").write_text(
        "_BASE_: base.yaml\nMODEL:\n  RESNETS: {DEPTH: 18}\n  SEM_SEG_HEAD: {NAME: MaskFormerHead, CONVS_DIM: 32,\n"
        "    MASK_DIM: 32, TRANSFORMER_ENC_LAYERS: 1, PIXEL_DECODER_NAME: MSDeformAttnPixelDecoder, NUM_CLASSES: 3}\n"
        "  MASK_FORMER: {HIDDEN_DIM: 32, DEC_LAYERS: 2, NUM_OBJECT_QUERIES: 7, DIM_FEEDFORWARD: 32, DROPOUT: 0.0,\n"
        "    TEST: {INSTANCE_ON: True, SEMANTIC_ON: False}}\n"
    )
    options = read_options(str(tmp_path / "own.yaml"))
    _, official = tiny_official()
    recipe, _, report = convert_state_dict(official, options)
    assert recipe.task == "instance"
    assert recipe.train.milestones == [327778 / 368750, 355092 / 368750]
    assert recipe.train.lr == 1e-4
    assert recipe.loss.mask_weight == 20.0  # the code's default
    assert [d for d in report.differences if "ffn" not in d] == []
    assert report.unlike == []
    solver = {"OPTIMIZER": "SGD", "LR_SCHEDULER_NAME": "WarmupCosineLR", "WEIGHT_DECAY_BIAS": 0.0}
    options["SOLVER"] |= {
        **solver,
        "CLIP_GRADIENTS": {"ENABLED": True, "CLIP_TYPE": "value", "CLIP_VALUE": 1},
    }
    recipe, _, report = convert_state_dict(official, options)
    assert recipe.train.schedule == "cosine"
    assert [line.split(" ")[1] for line in report.unlike] == ["SGD", "0.0", "value"]
    with pytest.raises(CheckpointError, match="neither a published"):
        read_options(str(tmp_path / "absent.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_options(str(tmp_path / "broken.yaml"))
    assert read_options("coco_instance_maskdino_R50_bs16_50ep_3s").startswith("mask_dino/")


def test_the_command_reports_and_refuses(tmp_path):
    from gdseg.cli.app import app

    _, official = tiny_official()
    torch.save({"model": official}, tmp_path / "m.pth")
    run = CliRunner().invoke
    out = str(tmp_path / "m.safetensors")
    done = run(app, ["convert", str(tmp_path / "m.pth"), "--out", out, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["mapped"], found["unexplained"], found["family"]) == (
        len(official) - 1,
        0,
        "Mask2Former",
    ) or (len(found["mapped"]) == len(official) - 1)
    again = run(app, ["convert", str(tmp_path / "m.pth"), "--out", out])
    assert "overwrite" in str(again.exception)
    back = run(app, ["convert", out, "--to", "official", "--out", str(tmp_path / "b.pth")])
    assert back.exit_code == 0
    assert "mask2former/coco_instance" in run(app, ["convert", "--list"]).stdout


def test_a_pickle_that_forges_a_pointer_through_a_dtype_is_refused(tmp_path):
    """A type of eight raw bytes whose state declares them an object: numpy would follow them as a pointer."""

    def of(name, *arguments):
        return b"c" + name + b"\n(" + b"".join(arguments) + b"tR"

    def literal(value):
        return pickle.dumps(value, 2)[2:-1]

    inner = of(b"numpy\ndtype", literal("O8"), b"\x89\x88")
    fields = b"}" + literal("a") + b"(" + inner + literal(0) + b"ts"
    state = (
        b"("
        + literal(3)
        + literal("|")
        + b"N("
        + literal("a")
        + b"t"
        + fields
        + literal(8)
        + literal(1)
        + literal(0)
        + b"t"
    )
    forged = of(b"numpy\ndtype", literal("V8"), b"\x89\x88") + state + b"b"
    array = of(b"numpy.core.multiarray\n_reconstruct", b"N")
    array += b"(" + literal(1) + b"(" + literal(1) + b"t" + forged + b"\x89" + b"C\x08" + b"A" * 8 + b"tb"
    (tmp_path / "a.pkl").write_bytes(b"\x80\x03}" + literal("x") + array + literal("a") + literal(5) + b"ss.")
    with pytest.raises(CheckpointError, match="are not weights"):
        read_tensors(tmp_path / "a.pkl")


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_of_every_plain_kind_and_order_are_read(tmp_path, protocol):
    arrays = {
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0, dtype=np.float32).reshape(2, 3)),
        "big_endian": np.arange(4, dtype=">f4"),
        "count": np.array(7, dtype=np.int64),
        "flags": np.array([True, False]),
        "none": np.zeros((0, 3), np.float32),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {**arrays, "step": np.float64(2.5)}}, protocol))
    found = read_tensors(tmp_path / "a.pkl")
    assert sorted(found) == sorted(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name].numpy(), array)
        assert found[name].numpy().dtype == array.dtype.newbyteorder("=")

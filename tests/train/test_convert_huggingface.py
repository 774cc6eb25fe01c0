"""Hugging Face's Mask2Former with its config.json: transformers' own network and ours give the same outputs."""

import json

import pytest
import torch

from gdseg.errors import CheckpointError
from gdseg.models.checkpoint import load_network
from gdseg.train.convert.files import Wanted, convert_file

SMALL = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 64,
    "dim_feedforward": 48,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "num_queries": 6,
    "num_attention_heads": 4,
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """transformers' network of random weights and the folder it is saved in, by options."""
    transformers = pytest.importorskip("transformers")
    made = {}

    def make(**options):
        key = json.dumps(options)
        if key not in made:
            torch.manual_seed(0)
            swin = transformers.SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
            config = transformers.Mask2FormerConfig(
                backbone_config=swin, num_labels=3, **{**SMALL, **options}
            )
            model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
            for parameter in model.parameters():  # norms too: ones and zeros hide which one is which
                parameter.data.add_(0.05 * torch.randn(parameter.shape))
            folder = tmp_path_factory.mktemp("theirs")
            model.save_pretrained(folder)
            made[key] = model, folder
        return made[key]

    return make


@pytest.mark.parametrize(
    "options",
    [{}, {"pre_norm": True}, {"encoder_layers": 0, "num_attention_heads": 2}],
    ids=["post_norm", "pre_norm", "heads_that_no_shape_tells"],
)
@torch.no_grad()
def test_outputs_are_those_of_transformers(theirs, tmp_path, options):
    model, folder = theirs(**options)
    convert_file(folder, tmp_path / "ours.safetensors", Wanted())
    network = load_network(tmp_path / "ours.safetensors")
    assert network.recipe.decoder.pre_norm == options.get("pre_norm", False)
    assert network.recipe.decoder.heads == options.get("num_attention_heads", 4)
    pixels = 255 * torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (network.recipe.backbone.mean, network.recipe.backbone.std)
    )
    expected = model(pixel_values=(pixels - mean) / std, output_hidden_states=True)
    found = network.model.eval()(pixels, [(64, 96)]).layers[-1]
    torch.testing.assert_close(found.logits, expected.class_queries_logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.masks, expected.masks_queries_logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 8}, "pixel_decoder.heads: 8, its tensors' shapes say 4"),
        ({"num_queries": 100}, "decoder.queries: 100, its tensors' shapes say 6"),
        ({"activation_function": "gelu"}, "activation_function: gelu; gdseg has relu"),
        ({"feature_strides": [4, 8, 16]}, "feature_strides"),
        ({"backbone_config": {"layer_norm_eps": 0.1}}, "backbone_config.layer_norm_eps"),
        ({"backbone_config": {"embed_dim": 128, "depths": [2, 2, 18, 2], "window_size": 7}}, "swin_base"),
        ({"backbone_config": 3}, "makes no sense"),
        ({"no_object_weight": float("nan")}, "loss.no_object"),
        ({"pre_norm": "often"}, "pre_norm"),
    ],
)
def test_a_config_that_gdseg_cannot_follow_is_an_error(theirs, tmp_path, change, message):
    _, folder = theirs()
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text()) | change
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_file(tmp_path, tmp_path / "out" / "ours.safetensors", Wanted())
    assert caught.value.exit_code == 4

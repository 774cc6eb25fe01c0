"""Files made to run code, to exhaust memory, or broken, through the command: exit code 4, one message, nothing done."""

import builtins
import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from gdseg.cli.app import main

MANY = 2_500_000_000  # ten gigabytes of float32


@pytest.fixture
def convert(monkeypatch, capsys, tmp_path):
    """`gdseg convert` of a file with these bytes: what it says, after exit code 4 and without an output."""

    def run(name: str, content: bytes) -> str:
        source, target = tmp_path / name, tmp_path / "out.safetensors"
        source.write_bytes(content)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        monkeypatch.setattr(sys, "argv", ["gdseg", "convert", str(source), "--out", str(target)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert left.value.code == 4
        assert "Traceback" not in said.err
        assert not target.exists()
        assert (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        ) >> 10 < 1000  # MiB, imports included
        return " ".join((said.out + said.err).split())

    return run


class Call:
    """Unpickling this would call `function`."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def saved(content, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


GADGETS = {
    "system": lambda path: Call(os.system, f"touch {path}"),
    "eval": lambda path: Call(builtins.eval, f"open({str(path)!r}, 'w')"),
    "exec": lambda path: Call(builtins.exec, f"open({str(path)!r}, 'w')"),
    "process": lambda path: Call(subprocess.Popen, ["touch", str(path)]),
    "nested": lambda path: [({"b": [Call(builtins.eval, f"open({str(path)!r}, 'w')")]},)],
    "in_an_array": lambda path: np.array([Call(os.system, f"touch {path}"), 1], dtype=object),
}


@pytest.mark.parametrize("gadget", GADGETS)
@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".bin"])
def test_what_runs_code_is_refused_and_runs_nothing(convert, tmp_path, gadget, suffix):
    marker = tmp_path / "marker"
    content = {"model": {"a": GADGETS[gadget](marker)}}
    said = convert(f"a{suffix}", pickle.dumps(content, 4) if suffix == ".pkl" else saved(content))
    assert "refused" in said or "not weights" in said
    assert not marker.exists()


def rebuilt(*arguments) -> Call:
    """A tensor of four stored numbers whose pickle says otherwise."""
    return Call(torch._utils._rebuild_tensor_v2, torch.ones(4).storage(), *arguments, False, {})


TOO_LARGE = {  # offset, size, stride
    "repeated": (0, (MANY,), (0,)),
    "grown": (0, (MANY,), (1,)),
    "beside": (100, (4,), (1,)),
    "before": (2, (2,), (-1,)),
}


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("name", TOO_LARGE)
@pytest.mark.parametrize("kind", ["a.pkl", "a.pth", "legacy.pth"])
def test_a_tensor_that_is_not_stored_takes_no_memory(convert, kind, name):
    content = {"model": {"a": rebuilt(*TOO_LARGE[name])}}
    convert(kind, pickle.dumps(content, 2) if kind == "a.pkl" else saved(content, kind == "a.pth"))


def changed_archive(change, compression=zipfile.ZIP_STORED) -> bytes:
    """A .pth whose parts were changed: change(name, bytes) -> bytes."""
    file, whole = io.BytesIO(), zipfile.ZipFile(io.BytesIO(saved({"model": {"a": torch.ones(4)}})))
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name in whole.namelist():
            archive.writestr(name, change(name, whole.read(name)))
    return file.getvalue()


def safetensors(header: bytes, data: bytes = bytes(16)) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def table(**tensors) -> bytes:
    return json.dumps(
        {k: {"dtype": "F32", "shape": s, "data_offsets": d} for k, (s, d) in tensors.items()}
    ).encode()


BROKEN = {
    "compressed.pth": lambda: changed_archive(
        lambda name, part: bytes(1 << 28) if "/data/" in name else part, zipfile.ZIP_DEFLATED
    ),
    "storage.pth": lambda: changed_archive(
        lambda name, part: (
            part.replace(b"K\x04t", b"\x8a\x05\x00\x00\x00\x90\x00t") if name.endswith("pkl") else part
        )
    ),
    "archive.pth": lambda: b"PK\x03\x04junk",
    "empty.pth": lambda: b"",
    "empty.pkl": lambda: b"",
    "empty.bin": lambda: b"",
    "empty.safetensors": lambda: b"",
    "sparse.pth": lambda: saved({"a": torch.sparse_coo_tensor([[0]], [1.0], (MANY,), check_invariants=True)}),
    "bytes.pkl": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 10 << 30) + b"\x00.",
    "number.pkl": lambda: b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x00.",
    "memo.pkl": lambda: b"\x80\x02K\x01r" + struct.pack("<I", 2**31 - 1) + b".",
    "deep.pkl": lambda: b"\x80\x02" + b"(" * 50_000 + b"t" * 50_000 + b".",
    "words.pkl": lambda: b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",
    "array.pkl": lambda: pickle.dumps({"a": np.ones(3)}, 2).replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"),
    "large.safetensors": lambda: safetensors(table(a=([MANY], [0, 4 * MANY]))),
    "overlap.safetensors": lambda: safetensors(table(a=([2], [0, 8]), b=([3], [4, 16]))),
    "header.safetensors": lambda: struct.pack("<Q", 10 << 30) + b"{}",
    "text.safetensors": lambda: safetensors(b"{nope"),
    "none.safetensors": lambda: safetensors(b"{}", b""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_message_and_takes_no_memory(convert, name):
    assert convert(name, BROKEN[name]()).count("checkpoint error") == 1


def test_whole_files_that_are_no_network_are_named(convert):
    assert "family that gdseg does not know" in convert("a.pth", saved({"encoder.weight": torch.ones(2)}))
    tensors = {"sem_seg_head.predictor.class_embed.weight": torch.ones(3, 4)}
    assert "neither ResNet, Swin nor ViT" in convert("b.pth", saved({"model": tensors, "iteration": 3}))
    assert "cannot be read" in convert("c.pth", saved({"model": {"a": torch.ones(999)}})[:700])

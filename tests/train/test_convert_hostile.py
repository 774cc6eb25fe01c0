"""Files made to run code, to exhaust memory, or broken, through the command: exit code 4, one message, nothing done."""

import builtins
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

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
        monkeypatch.setattr(sys, "argv", ["gdseg", "convert", str(source), "--out", str(target)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert left.value.code == 4
        assert "Traceback" not in said.err
        assert not target.exists()
        return " ".join((said.out + said.err).split())

    return run


READ = """
import json, resource, sys
from pathlib import Path
import torch
from gdseg.errors import CheckpointError
from gdseg.train.convert.readers import read_tensors
torch.ones(2).sum()
def held(word):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(word)).split()[1]) << 10
limit = held("VmSize") + (512 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
said = {}
for path in sys.argv[1:]:
    before = held("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    try:
        said[path] = [f"{len(read_tensors(Path(path)))} tensors"]
    except CheckpointError as error:
        said[path] = [error.what]
    said[path].append((held("VmHWM") - before) >> 20)
print(json.dumps(said))
"""


def read_within_limits(folder: Path, contents: dict[str, bytes]) -> dict[str, tuple[str, int]]:
    """What `read_tensors` says of each file, and the MiB it took, in a process with 512 MiB to spare."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("measures memory as Linux shows it")
    paths = {name: folder / name for name in contents}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(str, paths.values())], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return {name: tuple(said[str(path)]) for name, path in paths.items()}


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
def test_a_tensor_that_is_not_stored_takes_no_memory(tmp_path):
    files = {}
    for name, facts in TOO_LARGE.items():
        content = {"model": {"a": rebuilt(*facts)}}
        files[f"{name}.pkl"] = pickle.dumps(content, 2)
        files |= {f"{name}.{kind}.pth": saved(content, kind == "new") for kind in ("new", "old")}
    for name, (said, taken) in read_within_limits(tmp_path, files).items():
        assert taken < 50, name
        if name.endswith(".pkl") or name.startswith("repeated"):
            assert said == "holds a tensor larger than what is stored of it", name
        else:  # torch's own words
            assert "cannot be read as a file of weights" in said or "larger than what is stored" in said, name


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


def shared_bytes(size: int, count: int) -> bytes:
    """Many arrays, each of the same bytes, which are there once."""
    data = bytes(size)

    class Array:
        def __reduce__(self):
            reconstruct, arguments, (*state, _) = np.zeros(size // 4, np.float32).__reduce__()
            return reconstruct, arguments, (*state, data)

    return pickle.dumps({f"n{i}": Array() for i in range(count)}, 4)


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
    "memo27.pkl": lambda: b"\x80\x02K\x01r" + struct.pack("<I", 2**27) + b".",
    "shared.pkl": lambda: shared_bytes(1 << 20, 3000),
    "nested.pkl": lambda: pickle.dumps(
        {"a": Call(torch.storage._load_from_bytes, BROKEN["compressed.pth"]())}, 2
    ),
    "deep.pkl": lambda: b"\x80\x02" + b"(" * 50_000 + b"t" * 50_000 + b".",
    "words.pkl": lambda: b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",
    "array.pkl": lambda: pickle.dumps({"a": np.ones(3)}, 2).replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"),
    "large.safetensors": lambda: safetensors(table(a=([MANY], [0, 4 * MANY]))),
    "overlap.safetensors": lambda: safetensors(table(a=([2], [0, 8]), b=([3], [4, 16]))),
    "header.safetensors": lambda: struct.pack("<Q", 10 << 30) + b"{}",
    "text.safetensors": lambda: safetensors(b"{nope"),
    "none.safetensors": lambda: safetensors(b"{}", b""),
}


REASONS = {  # of those that our own code refuses
    **dict.fromkeys(
        ("memo.pkl", "memo27.pkl", "deep.pkl"), "holds no weights: it is no dictionary of tensors"
    ),
    "none.safetensors": "holds no weights: there is no tensor in it",
    "compressed.pth": "is compressed: ",
    "nested.pkl": "is compressed: ",
    "sparse.pth": "holds a tensor that is no plain array of numbers",
    "words.pkl": "refused: the pickle wants to import numpy.ndarray.__class__",
    "shared.pkl": "holds arrays that together are larger than what is stored of them",
}


@pytest.fixture(scope="module")
def read_all(tmp_path_factory):
    return read_within_limits(
        tmp_path_factory.mktemp("broken"), {name: make() for name, make in BROKEN.items()}
    )


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_reason_and_takes_no_memory(read_all, name):
    said, taken = read_all[name]
    assert said.startswith(REASONS.get(name, "cannot be read as a file of weights ("))
    assert taken < 100


@pytest.mark.parametrize("name", ["compressed.pth", "empty.pkl", "words.pkl", "large.safetensors"])
def test_the_command_says_it_once(convert, name):
    assert convert(name, BROKEN[name]()).count("checkpoint error") == 1


def test_one_array_under_many_names_is_one_tensor(tmp_path):
    array = np.ones(250_000, np.float32)  # a megabyte
    file = {"many.pkl": pickle.dumps({f"n{i}": array for i in range(3000)}, 4)}
    said, taken = read_within_limits(tmp_path, file)["many.pkl"]
    assert said == "3000 tensors"
    assert taken < 50


def test_whole_files_that_are_no_network_are_named(convert):
    assert "family that gdseg does not know" in convert("a.pth", saved({"encoder.weight": torch.ones(2)}))
    tensors = {"sem_seg_head.predictor.class_embed.weight": torch.ones(3, 4)}
    assert "neither ResNet, Swin nor ViT" in convert("b.pth", saved({"model": tensors, "iteration": 3}))
    assert "cannot be read" in convert("c.pth", saved({"model": {"a": torch.ones(999)}})[:700])

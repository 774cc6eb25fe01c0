"""Foreign weight files to tensors, without ever running what a file asks for. Called by `files.py`.

safetensors hold tensors only; .pth is read with torch's `weights_only`; .pkl (detectron2's numpy pickles)
with an unpickler that knows arrays and nothing else.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from gdseg.errors import CheckpointError

_EXPECTED = "expected names with their tensors, at the top or under model or state_dict; name another file"
_WRAPPERS = ("model", "state_dict", "model_state_dict", "teacher", "blobs")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .safetensors, .pth, .pt, .bin or .pkl file, without trainer and optimiser.

    Raises CheckpointError: no such file, broken, no tensors, or a pickle that wants to import something.
    """
    if not path.is_file():
        raise CheckpointError("no such file", path)
    try:
        stored = _read(path)
    except CheckpointError as error:
        error.where = str(path)
        raise
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|global)[: ]+`?(\w+\.[\w.]+)", str(error))
        if wanted:
            raise _refused(wanted[1], path) from error
        raise _broken(error, path) from error
    except Exception as error:  # a broken file makes these readers raise almost anything
        raise _broken(error, path) from error
    for _ in range(2):
        inner = next((stored[key] for key in _WRAPPERS if isinstance(stored, dict) and key in stored), None)
        stored = inner if isinstance(inner, dict) else stored
    if not isinstance(stored, dict):
        raise CheckpointError("holds no weights: it is no dictionary of tensors", path, _EXPECTED)
    try:
        tensors = {str(key): _as_tensor(value) for key, value in stored.items()}
    except CheckpointError as error:
        error.where = str(path)
        raise
    found = {key: value for key, value in tensors.items() if value is not None}
    if not found:
        raise CheckpointError("holds no weights: there is no tensor in it", path, _EXPECTED)
    return found


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if path.suffix == ".pkl" and not zipped:
        with path.open("rb") as file:
            return ArrayUnpickler(file, path.stat().st_size).load()
    if zipped:
        with path.open("rb") as file:
            _check_stored(file, path.stat().st_size)
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_stored(file: IO[bytes], stored: int) -> None:
    """Raises CheckpointError for an archive that grows when it is read; torch.save compresses nothing."""
    with zipfile.ZipFile(file) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > stored:
        raise CheckpointError(f"is compressed: {size} bytes in a file of {stored}")


def _refused(name: str, path: Path | None = None) -> CheckpointError:
    hint = "weights need tensors only; this file may be hostile, do not open it with other tools"
    return CheckpointError(f"refused: the pickle wants to import {name}", path, hint)


def _broken(error: Exception, path: Path) -> CheckpointError:
    words = str(error).rpartition("WeightsUnpickler error: ")[2]  # torch puts advice before it
    first = words.splitlines()[0] if words else type(error).__name__
    return CheckpointError(
        f"cannot be read as a file of weights ({first[:200]})", path, "is the download complete?"
    )


def _as_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return _plain(value)
    return value.tensor if isinstance(value, PickledArray) else None


def _plain(tensor: Tensor) -> Tensor:
    """The tensor itself. Raises CheckpointError for one that is not numbers in memory, all of them stored.

    A small file can declare a tensor of any size by counting the same numbers again and again.
    """
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        raise CheckpointError("holds a tensor that is no plain array of numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError("holds a tensor larger than what is stored of it")
    return tensor.detach()


class PickledType:
    """Stands for numpy's dtype, whose state could make it take numbers for pointers: plain numbers only."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r"[<>|=]?[fiu][1248]|b1", code):
            raise pickle.UnpicklingError(f"arrays of type {code[:20]!r} are not weights")
        self.numpy = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Of the state only the byte order counts."""
        if state[1] in ("<", ">"):
            self.numpy = self.numpy.newbyteorder(state[1])


class PickledArray:
    """Stands for numpy's array: what its state says, copied from bytes that are really there."""

    def __init__(self, spend: Callable[[int], None]) -> None:
        self.spend = spend
        self.array: NDArray[Any] | None = None

    @cached_property
    def tensor(self) -> Tensor | None:
        """In this machine's byte order; one tensor however many names it has, None without numbers."""
        if self.array is None:
            return None
        native = self.array.dtype.newbyteorder("=")
        return torch.from_numpy(np.array(self.array, native, order="C"))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """state: version, shape, type, whether in Fortran order, bytes (text from Python 2)."""
        _, shape, kind, fortran, data = state
        self.spend(len(data))
        flat = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, kind.numpy)
        self.array = flat.reshape([int(n) for n in shape], order="F" if fortran else "C")


def _number(kind: PickledType, data: bytes) -> Any:
    """Stands for numpy's `scalar`: a plain number."""
    return np.frombuffer(data, kind.numpy)[0].item()


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """Stands for torch's `_rebuild_tensor_v2`, which makes a storage larger where a tensor asks for more."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # typed storages are deprecated, files have them
        stored = storage.untyped()
    there = stored.nbytes() // storage.dtype.itemsize
    if min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= there):
        raise CheckpointError("holds a tensor larger than what is stored of it")
    return torch.empty(0, dtype=storage.dtype).set_(stored, offset, size, stride)


class ArrayUnpickler(pickle._Unpickler):
    """Reads arrays, tensors, containers, numbers and text; refuses every other import.

    In Python, because the one in C makes its table of objects as long as the largest number a file gives one.
    size: bytes of the file, which its arrays together cannot exceed unless it counts some again and again.
    """

    _KNOWN: dict[tuple[str, str], Callable[..., Any]] = {  # noqa: RUF012 - read only
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): lambda text, encoding: str(text).encode(str(encoding)),
        ("__builtin__", "bytes"): lambda: b"",  # how protocol 2 writes no bytes
        ("numpy", "dtype"): PickledType,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        **{(f"numpy.{core}.multiarray", "scalar"): _number for core in ("core", "_core")},
    }

    def __init__(self, file: Any, size: int) -> None:
        super().__init__(file, encoding="latin1")
        self.left = size
        self.known: dict[tuple[str, str], Callable[..., Any]] = {
            **self._KNOWN,
            ("numpy", "ndarray"): self._array,  # an argument of _reconstruct
            ("torch.storage", "_load_from_bytes"): self._storage,
            **{(f"numpy.{core}.multiarray", "_reconstruct"): self._array for core in ("core", "_core")},
        }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a known name. Raises CheckpointError for any other."""
        if (module, name) not in self.known:
            raise _refused(f"{module}.{name}")
        return self.known[module, name]

    def _array(self, *_: Any) -> PickledArray:
        return PickledArray(self._spend)

    def _storage(self, data: bytes) -> Any:
        """Stands for torch's `_load_from_bytes`, which would unpickle anything."""
        self._spend(len(data))
        if data[:2] == b"PK":
            _check_stored(io.BytesIO(data), len(data))
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)

    def _spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise CheckpointError("holds arrays that together are larger than what is stored of them")

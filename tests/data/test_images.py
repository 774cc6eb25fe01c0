"""Reading images: every mode against the array that was saved, and files that are broken."""

import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gdseg.data.images import _warn_of_deep_images, image_size, list_images, read_image
from gdseg.data.loader import eval_batches, train_batches
from gdseg.errors import DataError
from gdseg.recipe import Recipe
from gdseg.recipe_yaml import apply_overrides, load_recipe
from gdseg.structures import Record

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (6, 9), dtype=np.uint16)


def png16(array: np.ndarray) -> bytes:
    """A 16-bit RGB PNG by hand: Pillow does not write one."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_keep_every_value(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(RGB).save(path, lossless=True)
    image = read_image(path)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), RGB)


def test_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "x.jpg", quality=95)
    expected = np.asarray(Image.open(tmp_path / "x.jpg"))
    np.testing.assert_array_equal(read_image(tmp_path / "x.jpg").permute(1, 2, 0).numpy(), expected)


def test_grey_palette_alpha_and_bilevel_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    Image.fromarray(RGB).quantize(256).save(tmp_path / "palette.png")
    Image.fromarray(np.dstack([RGB, GREY])).save(tmp_path / "alpha.png")
    Image.fromarray(GREY > 99).save(tmp_path / "bilevel.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png").numpy(), np.stack([GREY] * 3))
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png").permute(1, 2, 0).numpy(), RGB)
    np.testing.assert_array_equal(read_image(tmp_path / "bilevel.png")[1].numpy(), (GREY > 99) * 255)
    one = read_image(tmp_path / "alpha.png", 1)
    np.testing.assert_array_equal(one[0].numpy(), np.asarray(Image.fromarray(RGB).convert("L")))
    palette = read_image(tmp_path / "palette.png").permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(palette, np.asarray(Image.open(tmp_path / "palette.png").convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_keeps_its_values(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(DEEP).save(tmp_path / f"x.{suffix}")
    image = read_image(tmp_path / f"x.{suffix}")
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image.numpy(), np.stack([DEEP] * 3).astype(np.float32))
    assert read_image(tmp_path / f"x.{suffix}", in_channels=1).shape == (1, 6, 9)


def test_sixteen_bit_colour_png_keeps_its_values(tmp_path: Path) -> None:
    deep = RNG.integers(0, 65536, (5, 4, 3), dtype=np.uint16)
    (tmp_path / "x.png").write_bytes(png16(deep))
    image = read_image(tmp_path / "x.png")
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), deep)
    mean = read_image(tmp_path / "x.png", in_channels=1)
    np.testing.assert_allclose(mean[0].numpy(), deep.mean(2), rtol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    """Independent truth: the EXIF standard's description of the eight orientations."""
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255  # only the top left is bright
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1), 7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95)
    image = read_image(path)
    assert image.shape == (3, 16, 24)
    assert image[:, :7, :7].float().mean() > 240
    assert image[:, 9:].float().mean() < 15
    assert image[:, :, 9:].float().mean() < 15
    assert image_size(path) == (16, 24)


def test_other_channel_counts(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([RGB, GREY])).save(tmp_path / "four.png")
    np.testing.assert_array_equal(read_image(tmp_path / "four.png", 4)[3].numpy(), GREY)
    pages = [Image.fromarray(GREY), Image.fromarray(GREY // 2)]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "two.tif", 2).numpy(), np.stack([GREY, GREY // 2]))
    with pytest.raises(DataError, match="has 2 channels, the recipe expects 5"):
        read_image(tmp_path / "two.tif", 5)


@pytest.mark.parametrize("dtype", ["u1", "?", "<u2", ">i4", "f4", "f8", "f2"])
@pytest.mark.parametrize("channels", [None, 1, 3, 7])
def test_npy_arrays_keep_their_values(tmp_path: Path, dtype: str, channels: int | None) -> None:
    shape = (6, 9) if channels is None else (6, 9, channels)
    array = RNG.integers(0, 200, shape).astype(dtype)
    np.save(tmp_path / "x.npy", np.asfortranarray(array))
    image = read_image(tmp_path / "x.npy", channels or 1)
    assert image.dtype == (torch.uint8 if dtype in ("u1", "?") else torch.float32)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), array.reshape(6, 9, -1).astype(np.float32))
    assert image_size(tmp_path / "x.npy") == (6, 9)
    assert list_images(tmp_path) == [tmp_path / "x.npy"]


def test_what_is_no_image_in_npy_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    wrong = [
        np.zeros(4),
        np.zeros((2, 2, 2, 2)),
        np.zeros((0, 4)),
        np.array([["a"]]),
        np.zeros((2, 2), complex),
    ]
    for array in [*wrong, np.array([[{}, {}]], dtype=object)]:
        np.save(path, array, allow_pickle=True)
        for read in (read_image, image_size):
            with pytest.raises(DataError, match="cannot read the image"):
                read(path)
    np.save(path, np.full((2, 2), np.nan))
    with pytest.raises(DataError, match="values that are no numbers"):
        read_image(path)
    np.save(path, np.zeros((2, 2)))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"(2, 2), }", b"(99999, 99999), }").replace(b" " * 12, b"", 1))
    for broken in (whole[:-1], whole[:40], path.read_bytes(), b"PK\3\4", b""):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="the image"):
            read_image(path)


def tiff(array: np.ndarray, order: str = "<", *, big: bool = False, **kind: Any) -> bytes:
    """A TIFF [H, W, samples] by hand: planar, tile (a side), predictor, packing (name), orientation, extra."""
    height, width, samples = array.shape
    planar, side, packing = kind.get("planar", False), kind.get("tile"), kind.get("packing")
    blocks = []
    for plane in np.split(array, samples, axis=2) if planar else [array]:
        down, across = side or 4, side or width
        for y in range(0, height, down):
            for x in range(0, width, across):
                block = plane[y : y + down, x : x + across]
                if side:
                    block = np.pad(block, [(0, side - n) for n in block.shape[:2]] + [(0, 0)])
                blocks.append(packed(block, order, kind.get("predictor", 1), packing))
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", [array.dtype.itemsize * 8] * samples),
        259: ("H", [{None: 1, "tiff_lzw": 5, "tiff_adobe_deflate": 8, "packbits": 32773}[packing]]),
        262: ("H", [2 if samples in (3, 4) else 1]), 274: ("H", [kind.get("orientation", 1)]),
        277: ("H", [samples]), 284: ("H", [2 if planar else 1]), 317: ("H", [kind.get("predictor", 1)]),
        338: ("H", [kind.get("extra", 0)] * max(1, samples - 3)), 339: ("H", [{"u": 1, "i": 2, "f": 3}[array.dtype.kind]] * samples),
        324 if side else 273: ("I", [0] * len(blocks)),
        325 if side else 279: ("I", [len(block) for block in blocks]),
    }  # fmt: skip
    if samples <= 3:
        del tags[338]
    tags |= {322: ("I", [side]), 323: ("I", [side])} if side else {278: ("I", [4])}
    word, room = ("Q", 8) if big else ("I", 4)
    start = 16 if big else 8
    after = start + (8 + 20 * len(tags) + 8 if big else 2 + 12 * len(tags) + 4)
    sizes = {tag: struct.calcsize(order + letter * len(values)) for tag, (letter, values) in tags.items()}
    place = after + sum(size for size in sizes.values() if size > room)
    tags[324 if side else 273] = ("I", [place + sum(map(len, blocks[:i])) for i in range(len(blocks))])
    entries, extra = b"", b""
    for tag, (letter, values) in sorted(tags.items()):
        data = struct.pack(order + letter * len(values), *values)
        entries += struct.pack(order + "HH" + word, tag, {"H": 3, "I": 4}[letter], len(values))
        entries += (
            data.ljust(room, b"\0") if len(data) <= room else struct.pack(order + word, after + len(extra))
        )
        extra += data if len(data) > room else b""
    mark = b"II" if order == "<" else b"MM"
    head = (
        struct.pack(order + "HHHQQ", 43, 8, 0, 16, len(tags))
        if big
        else struct.pack(order + "HIH", 42, 8, len(tags))
    )
    return mark + head + entries + struct.pack(order + word, 0) + extra + b"".join(blocks)


def packed(block: np.ndarray, order: str, predictor: int, packing: str | None) -> bytes:
    """The bytes of a strip or tile, as libtiff packs them (taken out of a grey file that Pillow wrote)."""
    rows = len(block)
    data = block.astype(block.dtype.newbyteorder(order)).tobytes()
    if predictor == 2:
        steps = np.diff(block, axis=1, prepend=np.zeros_like(block[:, :1]))
        data = steps.astype(block.dtype.newbyteorder(order)).tobytes()
    elif predictor == 3:
        flat = block.reshape(rows, -1).astype(">f4")
        planes = (
            np.ascontiguousarray(flat).view(np.uint8).reshape(rows, -1, 4).swapaxes(1, 2).reshape(rows, -1)
        )
        pixels = planes.reshape(rows, -1, block.shape[2])
        data = np.diff(pixels, axis=1, prepend=np.zeros_like(pixels[:, :1])).tobytes()
    if packing is None:
        return data
    buffer = io.BytesIO()
    grey = Image.fromarray(np.frombuffer(data, np.uint8).reshape(rows, -1))
    grey.save(buffer, "TIFF", compression=packing, tiffinfo={278: rows})
    with Image.open(buffer) as file:
        [offset], [count] = file.tag_v2[273], file.tag_v2[279]
    return buffer.getvalue()[offset : offset + count]


@pytest.mark.parametrize(
    ("dtype", "samples", "kind"),
    [
        ("u1", 5, {}),
        ("u1", 2, {}),
        ("u1", 4, {}),
        ("u2", 3, {}),
        ("u2", 13, {"order": ">"}),
        ("i2", 4, {"planar": True}),
        ("f4", 3, {"big": True}),
        ("u4", 2, {"order": ">"}),
        ("u2", 5, {"tile": 16}),
        ("u2", 5, {"tile": 16, "planar": True, "packing": "tiff_lzw", "predictor": 2}),
        ("u2", 3, {"packing": "tiff_adobe_deflate", "predictor": 2, "order": ">"}),
        ("u1", 6, {"packing": "packbits"}),
        ("f4", 4, {"packing": "tiff_lzw", "predictor": 3}),
        ("u2", 3, {"orientation": 6}),
        ("u2", 3, {"orientation": 4}),
    ],
)
def test_tiff_of_many_and_deep_channels(
    tmp_path: Path, dtype: str, samples: int, kind: dict[str, Any]
) -> None:
    array = RNG.integers(0, 200 if dtype == "u1" else 30000, (10, 21, samples)).astype(dtype)
    (tmp_path / "x.tif").write_bytes(tiff(array, **kind))
    upright = {6: np.rot90(array, -1), 4: array[::-1]}.get(kind.get("orientation", 1), array)
    image = read_image(tmp_path / "x.tif", samples)
    assert image.dtype == (torch.uint8 if dtype == "u1" else torch.float32)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), upright.astype(np.float32))
    assert image_size(tmp_path / "x.tif") == upright.shape[:2]


def test_tiff_that_pillow_knows_stays_with_it(tmp_path: Path) -> None:
    (tmp_path / "rgb.tif").write_bytes(tiff(RGB))
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.tif").permute(1, 2, 0).numpy(), RGB)
    (tmp_path / "rgba.tif").write_bytes(tiff(np.dstack([RGB, GREY]), extra=2))
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.tif").permute(1, 2, 0).numpy(), RGB)
    (tmp_path / "five.tif").write_bytes(tiff(RNG.integers(0, 9, (4, 4, 5)).astype("u1")))
    with pytest.raises(DataError, match="has 5 channels, the recipe expects 3"):
        read_image(tmp_path / "five.tif")


def test_mutated_tiff_and_npy_never_raise_anything_else(tmp_path: Path) -> None:
    rng, wholes = np.random.default_rng(2), []
    array = RNG.integers(0, 200, (6, 7, 5)).astype("u2")
    for kind in ({}, {"tile": 16, "packing": "tiff_lzw"}, {"big": True, "planar": True}):
        wholes.append(("x.tif", tiff(array, **kind)))
    np.save(tmp_path / "x.npy", array)
    wholes.append(("x.npy", (tmp_path / "x.npy").read_bytes()))
    for name, whole in wholes:
        for _ in range(60):
            data = np.frombuffer(whole, np.uint8).copy()
            data[rng.integers(0, min(len(data), 300), rng.integers(1, 6))] = rng.integers(0, 256)
            (tmp_path / name).write_bytes(data.tobytes())
            for read in (lambda path: read_image(path, 5), image_size):
                with contextlib.suppress(DataError):
                    read(tmp_path / name)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
def test_a_broken_file_is_a_data_error_that_names_it(tmp_path: Path, suffix: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix)
    )
    whole = buffer.getvalue()
    for broken in (b"", b"not an image", whole[: len(whole) // 2], bytes(range(256)) * 4):
        path = tmp_path / f"broken.{suffix}"
        path.write_bytes(broken)
        with pytest.raises(DataError) as caught:
            read_image(path)
        assert str(path) in str(caught.value)


def test_mutated_files_never_raise_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    wholes = [png16(RNG.integers(0, 65536, (8, 8, 3), dtype=np.uint16))]
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(RGB).save(buffer, kind)
        wholes.append(buffer.getvalue())
    for whole in wholes:
        for _ in range(40):
            data = np.frombuffer(whole, np.uint8).copy()
            data[rng.integers(0, len(data), rng.integers(1, 6))] = rng.integers(0, 256)
            (tmp_path / "x.png").write_bytes(data.tobytes())
            for read in (read_image, image_size):
                with contextlib.suppress(DataError):
                    read(tmp_path / "x.png")


def test_missing_folder_and_bomb(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such image"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="cannot read the image"):
        read_image(tmp_path)
    head = png16(np.zeros((1, 1, 3), np.uint16))
    huge = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = head[:12] + b"IHDR" + huge + struct.pack(">I", zlib.crc32(b"IHDR" + huge)) + head[33:]
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(DataError, match="more than 178956970 pixels"):
        read_image(tmp_path / "bomb.png")


def test_list_images_is_recursive_and_sorted(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/z.png", "a/c.tiff", "notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)] == [
        "a/c.tiff",
        "a/z.png",
        "b.JPG",
    ]
    with pytest.raises(DataError, match="no such folder"):
        list_images(tmp_path / "none")


@pytest.mark.parametrize("train", [True, False])
def test_deep_images_for_a_network_of_8_bits_are_told_of_once(tmp_path: Path, train: bool) -> None:
    settings = ["data.workers=0", "augment.canvas=[32, 32]", "augment.test_shortest=32"]
    recipe = load_recipe("shapes_maskdino", [*settings, "augment.test_longest=32"])
    own = apply_overrides(recipe, ["backbone.mean=[30000, 30000, 30000]", "backbone.std=[9000, 9000, 9000]"])

    def values(used: Recipe, image: np.ndarray) -> float:
        """The largest value that reaches the network."""
        Image.fromarray(image).save(tmp_path / "a.png")
        records = [Record(n, tmp_path / "a.png", 32, 32, ()) for n in range(4)]
        options: dict[str, Any] = {"seed": 0, "start_step": 0, "steps": 3, "strong": False, "num_classes": 1}
        made = (
            train_batches(records, used, batch_size=2, **options) if train else eval_batches(records, used, 2)
        )
        return max(float(batch.images.max()) for batch in made)

    bright, deep = np.full((32, 32, 3), 255, np.uint8), np.full((32, 32), 60_000, np.uint16)
    assert (values(recipe, bright), values(own, deep)) == (255, 60_000)  # a warning would be an error
    _warn_of_deep_images.cache_clear()
    with pytest.warns(UserWarning, match="above 255") as said:
        reached = [values(recipe, deep) for _ in range(2)]
    assert reached == [60_000, 60_000]  # as it says: not scaled
    assert len(said) == 1

"""Reading images: every mode against the array that was saved, and files that are broken."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gdseg.data.images import image_size, list_images, read_image
from gdseg.errors import DataError

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

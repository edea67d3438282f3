"""Folders of images: what is decoded, and what is refused."""

import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pockengine as pe
from pockengine.data.images import decoded
from pockengine.errors import InputError, PackageMissingError

RED, GREY = (255, 0, 0), (51, 51, 51)


def folder(root: Path, **counts: int) -> Path:
    """Images 8 x 6 of noise, so many in the sub-folder of each class."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (6, 8, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def one(path: Path, **options: Any) -> np.ndarray:
    """The image as numbers 0 to 255: f32 (channels, height, width)."""
    root = path.parent / "root"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / path.name).write_bytes(path.read_bytes())
    data = pe.ImageFolder(root, **{"size": 4, "mean": 0.0, "std": 1 / 255} | options)
    return np.asarray(data.batch([0]).x)[0].round(3)


def test_samples_labels_and_classes(tmp_path: Path) -> None:
    data = pe.ImageFolder(folder(tmp_path, dog=2, cat=3), 4)
    assert data.classes == ("cat", "dog")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 0, 1, 1]
    assert [name.split("@")[0] for name in data.ids(range(5))][2:4] == ["cat/2.png", "dog/0.png"]
    x, y = data.batch([4, 0])
    assert isinstance(x, np.ndarray)
    assert (x.shape, x.dtype) == ((2, 3, 4, 4), np.float32)
    assert y is not None and y.tolist() == [1, 0]


def test_values_are_scaled_by_mean_and_deviation(tmp_path: Path) -> None:
    root = folder(tmp_path, a=1, b=1)
    pixels = np.asarray(Image.open(root / "a" / "0.png")).transpose(2, 0, 1) / 255
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.7])
    data = pe.ImageFolder(root, (6, 8), mean.tolist(), std.tolist())
    expected = (pixels - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(np.asarray(data.batch([0]).x)[0], expected, rtol=1e-4, atol=1e-6)


def test_channels(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (5, 5), RED).save(path)
    assert one(path)[:, 0, 0].tolist() == [255, 0, 0]
    assert one(path, channels="BGR")[:, 0, 0].tolist() == [0, 0, 255]
    grey = one(path, channels="grey")
    assert grey.shape == (1, 4, 4)
    assert grey[0, 0, 0] == pytest.approx(76, abs=1)  # 0.299 * 255


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", ["RGB", "grey"])
def test_a_grey_image_of_any_mode(tmp_path: Path, mode: str, channels: str) -> None:
    """51 of 255 everywhere, or white where a mode knows no greys."""
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    if mode == "I;16":
        Image.fromarray(np.full((5, 5), 51 * 257, np.uint16)).save(path)
    else:
        Image.new("RGB", (5, 5), (255, 255, 255) if mode == "1" else GREY).convert(mode).save(path)
    np.testing.assert_allclose(one(path, channels=channels), 255 if mode == "1" else 51, atol=1)


@pytest.mark.parametrize(("alpha", "expected"), [(255, 0), (0, 200), (51, 160)])
def test_what_is_transparent_shows_the_background(
    tmp_path: Path, alpha: int, expected: int
) -> None:
    Image.new("RGBA", (5, 5), (0, 0, 0, alpha)).save(tmp_path / "image.png")
    found = one(tmp_path / "image.png", background=200)
    np.testing.assert_allclose(found, expected, atol=1)


def test_a_transparent_colour_of_a_palette(tmp_path: Path) -> None:
    image = Image.new("P", (5, 5), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "image.png", transparency=1)
    assert (one(tmp_path / "image.png") == 255).all()


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0] = 255  # a white row on top of what the camera stored, lying on its side
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "image.png", exif=exif)
    found = one(tmp_path / "image.png")[0]
    assert (found[:, 3] == 255).all() and (found[:, :3] == 0).all()


def test_what_does_not_fit_is_cut_off_or_stretched(tmp_path: Path) -> None:
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = 255  # the middle third is white
    Image.fromarray(pixels).save(tmp_path / "image.png")
    assert (one(tmp_path / "image.png") == 255).all()
    stretched = one(tmp_path / "image.png", fit="stretch")
    assert stretched.shape == (3, 4, 4)
    assert stretched[0, 0, 0] < 10 and stretched[0, 0, 3] < 10


def test_size_is_height_and_width(tmp_path: Path) -> None:
    data = pe.ImageFolder(folder(tmp_path, a=1, b=1), (3, 5))
    assert np.asarray(data.batch([0]).x).shape == (1, 3, 3, 5)


def test_files_may_lie_deeper_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    root = folder(tmp_path, a=1, b=1)
    folder(root / "a", deeper=2)
    (root / "a" / ".hidden.png").write_bytes(b"nothing")
    (root / ".thumbs").mkdir()
    data = pe.ImageFolder(root, 4)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 0, 1]


def test_the_fingerprint_follows_files_and_settings(tmp_path: Path) -> None:
    root = folder(tmp_path, a=2, b=2)
    base = pe.ImageFolder(root, 4)
    assert pe.ImageFolder(root, 4).fingerprint() == base.fingerprint()
    found = {base.fingerprint(), *(pe.ImageFolder(root, s).fingerprint() for s in (5, (4, 5)))}
    found.add(pe.ImageFolder(root, 4, mean=0.4).fingerprint())
    found.add(pe.ImageFolder(root, 4, classes=["b", "a"]).fingerprint())
    os.utime(root / "a" / "0.png", ns=(1, 1))
    touched = pe.ImageFolder(root, 4)
    found.add(touched.fingerprint())
    assert touched.ids([0]) != base.ids([0]) and touched.ids([1]) == base.ids([1])
    assert pe.ImageFolder(root, 5).ids([1]) != base.ids([1])
    (root / "b" / "1.png").unlink()
    found.add(pe.ImageFolder(root, 4).fingerprint())
    assert len(found) == 7


# ---- what is refused -----------------------------------------------------------------------------


def refused(root: Path, **options: Any) -> str:
    """The words of the error, when the folder is opened or all of it is decoded."""
    with pytest.raises(InputError) as error:
        data = pe.ImageFolder(root, **{"size": 4} | options)
        data.batch(range(len(data)))
    return str(error.value)


def test_folders_without_images(tmp_path: Path) -> None:
    assert "nowhere is no folder" in refused(tmp_path / "nowhere")
    assert f"{tmp_path} has no sub-folders; put the images of each class" in refused(tmp_path)
    folder(tmp_path, a=1, b=0)
    assert f"{tmp_path / 'b'} has no images (.bmp, .gif, .jpeg" in refused(tmp_path)


def test_one_class_only(tmp_path: Path) -> None:
    root = folder(tmp_path, cat=3)
    assert "images of one class only, 'cat'; there is nothing to tell apart" in refused(root)
    with pytest.warns(UserWarning, match="has no images of the classes 'dog'"):
        assert len(pe.ImageFolder(root, 4, classes=["cat", "dog"])) == 3


def test_a_class_that_is_not_among_those_given(tmp_path: Path) -> None:
    words = refused(folder(tmp_path, cat=1, cow=1), classes=["cat", "dog"])
    assert "has folders 'cow'; the classes are 'cat', 'dog'" in words


def test_other_files_are_named_and_left_out(tmp_path: Path) -> None:
    root = folder(tmp_path, a=1, b=1)
    (root / "a" / "notes.txt").write_text("hello")
    with pytest.warns(UserWarning, match=r"left out, as no images: 'notes.txt'"):
        assert len(pe.ImageFolder(root, 4)) == 2


def damaged(root: Path, content: bytes, name: str = "0.png") -> str:
    (root / "a" / name).write_bytes(content)
    words = refused(root)
    assert f"{root / 'a' / name} cannot be read as an image: " in words
    return words


def test_broken_images(tmp_path: Path) -> None:
    root = folder(tmp_path, a=1, b=1)
    whole = (root / "b" / "0.png").read_bytes()
    assert "cannot identify image file" in damaged(root, b"")
    assert "cannot identify image file" in damaged(root, b"<svg></svg>")
    assert "cannot identify image file" in damaged(root, b"%!PS-Adobe-3.0 EPSF-3.0\n")
    for kept in (20, 60, len(whole) // 2, len(whole) - 40):
        damaged(root, whole[:kept])


def test_changed_bytes_never_crash(tmp_path: Path) -> None:
    """An error in words, or an image: PNG has checksums, JPEG hardly any."""
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg", "gif", "webp", "bmp", "tif", "ppm"):
        path = tmp_path / f"image.{suffix}"
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
        whole = path.read_bytes()
        for _ in range(40):
            changed = bytearray(whole)
            changed[int(rng.integers(len(whole)))] = int(rng.integers(256))
            path.write_bytes(changed)
            try:
                assert decoded(path).mode in ("L", "RGB")
            except InputError as error:
                assert str(path) in str(error)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "words"),
    [
        (8001, "8001 x 8000 pixels are over the 64 million that are read; make it smaller"),
        (12000, "12000 x 8000 pixels are over the 64 million"),
        (100_000, "exceeds limit"),
    ],
)
def test_images_that_unpack_to_too_much(tmp_path: Path, width: int, words: str) -> None:
    assert words in damaged(folder(tmp_path, a=1, b=1), png_header(width, 8000))


def test_pixels_without_a_range(tmp_path: Path) -> None:
    root = folder(tmp_path, a=1, b=1)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(root / "a" / "1.tif")
    assert "1.tif cannot be read as an image: pixels of mode 'F' have no fixed" in refused(root)


@pytest.mark.parametrize("kind", ["image", "folder", "class"])
def test_links_out_of_the_folder(tmp_path: Path, kind: str) -> None:
    root, outside = folder(tmp_path / "in", a=1, b=1), folder(tmp_path / "out", c=1)
    link = {"image": root / "a" / "x.png", "folder": root / "a" / "x", "class": root / "x"}[kind]
    link.symlink_to(outside / "c" / "0.png" if kind == "image" else outside / "c")
    assert f"{link} is a link out of {root}; it is not followed" in refused(root)


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    root = folder(tmp_path / "in", a=1, b=1)
    (root / "a" / "x.png").symlink_to(root / "b" / "0.png")
    (tmp_path / "other").symlink_to(root)
    assert len(pe.ImageFolder(tmp_path / "other", 4)) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0}, "images need a size of at least 1, got 0, 0"),
        ({"channels": "HSV"}, "channels are 'RGB', 'BGR' or 'grey'"),
        ({"fit": "pad"}, "fit is 'crop' or 'stretch'; got 'RGB' and 'pad'"),
        ({"mean": (0.5, 0.5)}, "mean and std are one number, or 3, with std above 0"),
        ({"mean": (0.5, 0.5, 0.5), "channels": "grey"}, "one number, or 1"),
        ({"std": 0.0}, "with std above 0; got (0.5,) and (0.0,)"),
        ({"background": 256}, "background is a grey from 0 to 255, got 256"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    assert words in refused(folder(tmp_path, a=1, b=1), **options)


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(PackageMissingError) as error:
        pe.ImageFolder(tmp_path, 4)
    assert str(error.value) == ("a folder of images needs Pillow; pip install 'pockengine[data]'")

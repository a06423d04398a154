"""demo_app/images.py: what can be opened, what is refused, what a file may cost."""

import contextlib
import io
import itertools
import struct
import zlib

import images
import numpy as np
import pytest
from PIL import Image
from runs import ROOT

EXAMPLES = sorted((ROOT / "demo_app" / "Examples").iterdir())


def encoded(image, suffix="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


def test_every_kind_of_source_gives_the_same_pixels():
    path = EXAMPLES[0]
    expected = images.open_image(path)
    assert expected.dtype == np.uint8 and expected.ndim == 3 and expected.shape[2] == 1
    with path.open("rb") as file:
        sources = [str(path), path.read_bytes(), file, Image.open(path), expected, expected[:, :, 0]]
        sources.append(np.repeat(expected, 3, axis=2))
        for source in sources:
            np.testing.assert_array_equal(images.open_image(source), expected)


def test_formats_and_modes():
    grey = Image.fromarray(np.linspace(0, 255, 200 * 50).astype(np.uint8).reshape(50, 200))
    for suffix, mode in itertools.product(images.FORMATS, ("L", "RGB")):
        opened = images.open_image(encoded(grey.convert(mode), suffix))
        assert opened.shape == (50, 200, 1)
        assert np.abs(opened[:, :, 0] - np.asarray(grey, int)).mean() < 3, (suffix, mode)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert np.abs(images.open_image(encoded(deep))[:, :, 0] - np.asarray(grey, int)).max() <= 1


def test_transparency_is_white_and_rotation_is_applied():
    clear = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    assert (images.open_image(encoded(clear)) == 255).all()
    palette = Image.new("P", (4, 2), 0)
    assert (images.open_image(encoded(palette, transparency=0)) == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert images.open_image(encoded(Image.new("L", (40, 20)), "JPEG", exif=exif)).shape == (40, 20, 1)


PNG = encoded(Image.new("L", (20, 10)))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (PNG[:45], "damaged"),
        (PNG[:50] + b"xxxx" + PNG[54:], "damaged"),
        ("nowhere.png", "no file"),
        (str(ROOT), "folder"),
        (None, "NoneType"),
        (np.zeros((3, 4, 5), np.uint8), "shape"),
        (np.zeros((3, 4)), "float64"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
        (Image.new("1", (8000, 8000)), "pixels"),
        (str(EXAMPLES[0] / "below.png"), "no file"),
        ("a" * 5000, "name too long"),
        (Image.new("RGB", (7, 0)), "no pixels"),
        (Image.new("RGB", (0, 7)), "no pixels"),
        (encoded(Image.new("1", (20000, 20000))), "pixels"),
    ],
)
def test_what_is_not_an_image_gets_a_sentence(source, words):
    with pytest.raises(images.ImageError, match=words) as caught:
        images.open_image(source)
    assert str(caught.value).endswith(".")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of the damage
def test_no_damage_escapes_as_another_error():
    """Seeded flips and cuts of each format: an array or an ImageError, nothing else."""
    rng = np.random.default_rng(0)
    image = Image.open(EXAMPLES[0]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 3
    for suffix in images.FORMATS:
        data = encoded(image, suffix, **({"exif": exif} if suffix in ("JPEG", "WEBP", "TIFF") else {}))
        for _ in range(300):
            damaged = bytearray(data[: rng.integers(1, len(data) + 1)])
            for position in rng.integers(0, min(len(damaged), 400), rng.integers(1, 5)):
                damaged[position] = rng.integers(256)
            with contextlib.suppress(images.ImageError):
                assert images.open_image(bytes(damaged)).dtype == np.uint8


def test_a_large_image_is_converted_in_strips(monkeypatch):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (41, 30)).astype(np.uint8)
    deep = rng.integers(0, 65_536, (41, 30)).astype(np.uint16)
    rgba = rng.integers(0, 256, (41, 30, 4)).astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    sources = [encoded(Image.fromarray(array)) for array in (grey, deep, rgba)]
    sources.append(encoded(Image.fromarray(deep.astype(np.float32)), "TIFF"))
    sources.append(encoded(Image.fromarray(grey).convert("P"), transparency=7))
    sources.append(encoded(Image.fromarray(rgba[..., :3]), "JPEG", exif=turned))
    for source, channels in itertools.product(sources, (1, 3)):
        monkeypatch.setattr(images, "STRIP_PIXELS", 1_000_000)
        expected = images.open_image(source, channels)
        monkeypatch.setattr(images, "STRIP_PIXELS", 100)
        np.testing.assert_array_equal(images.open_image(source, channels), expected)


def test_an_image_that_was_given_open_is_left_as_it_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)))
    assert images.open_image(image).shape == (40, 20, 1)
    assert (image.size, image.mode) == ((40, 20), "RGB") and image.getexif()[0x0112] == 6


def test_a_photograph_is_read_and_a_smaller_one_where_decoders_need_more():
    assert images.open_image(encoded(Image.new("RGB", (6000, 4000)), "JPEG")).shape == (4000, 6000, 1)
    for image in (encoded(Image.new("L", (5000, 4000)), "TIFF"), Image.new("CMYK", (5000, 4000))):
        with pytest.raises(images.ImageError, match="13,000,000 pixels"):
            images.open_image(image)


def chunks(name, count):
    return (struct.pack(">I", 0) + name + struct.pack(">I", zlib.crc32(name))) * count


JPEG = encoded(Image.new("RGB", (200, 100), "grey"), "JPEG", progressive=True)
LAYER = JPEG[JPEG.rindex(b"\xff\xda") : -2]
TIFF = struct.pack("<2sHIH", b"II", 42, 8, 1) + struct.pack("<HHII", 273, 4, 200_000, 26) + bytes(800_004)
BIG_TIFF = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 1) + struct.pack("<HHQQ", 324, 4, 200_000, 44)


PARTS = {
    "PNG": (PNG[:33] + chunks(b"prVt", 60_000) + PNG[33:], "too long"),
    "PNG behind its pixels": (PNG[:-12] + chunks(b"prVt", 60_000) + PNG[-12:], "too long"),
    "JPEG": (JPEG[:2] + b"\xff\xfe\0\2" * 50_000 + JPEG[2:], "too long"),
    "JPEG's layers": (JPEG[:-2] + LAYER * 60_000 + JPEG[-2:], "layers"),
    "TIFF": (TIFF, "200,000 parts"),
    "BigTIFF": (BIG_TIFF + bytes(800_000), "200,000 parts"),
}


@pytest.mark.parametrize(("data", "words"), PARTS.values(), ids=PARTS)
def test_files_of_very_many_parts_are_refused(data, words):
    with pytest.raises(images.ImageError, match=words):
        images.open_image(data)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, of the damage
def test_a_tiff_that_is_cut_before_its_parts_is_refused():
    with pytest.raises(images.ImageError, match="not an image"):
        images.open_image(TIFF[:9])


def test_parts_that_swell_are_given_up(monkeypatch):
    swelling = b"a\0\0" + zlib.compress(bytes(1000))
    part = struct.pack(">I", len(swelling)) + b"iCCP" + swelling
    part += struct.pack(">I", zlib.crc32(part[4:]))
    data = PNG[:33] + part * 4000 + PNG[33:]
    assert len(data) > images.SMALL_BYTES and images.open_image(data).shape == (10, 20, 1)
    monkeypatch.setattr(images, "MAX_SECONDS", 0)
    with pytest.raises(images.ImageError, match="too long"):
        images.open_image(data)


class Stream:
    """Bytes that come one after the other, as from a network."""

    def __init__(self, content):
        self.file = io.BytesIO(content)

    def read(self, size=-1):
        return self.file.read(size)


def test_ordinary_files_are_within_the_limits():
    """A photograph with a film behind it, a BMP that is read byte by byte, a stream that can't go back."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (1000, 1200, 3), np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG")
    photograph = file.getvalue() + rng.bytes(8_000_000)
    assert images.open_image(photograph).shape == (1000, 1200, 1)
    width, height = 400, 300
    row = b"".join(bytes([1, value]) for value in rng.integers(0, 256, width)) + b"\0\0"
    pixels, palette = row * height + b"\0\1", bytes(range(256)) * 4
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    bmp = b"BM" + struct.pack("<IHHI", 1078 + len(pixels), 0, 0, 1078) + sizes + palette + pixels
    assert len(bmp) > 2 * images.MAX_PARTS and images.open_image(bmp).shape == (height, width, 1)
    assert images.open_image(Stream(photograph)).shape == (1000, 1200, 1)

"""demo_app/images.py: what can be opened, what is refused, what a file may cost."""

import contextlib
import io
import itertools
import os
import struct
import tracemalloc
import zlib
from importlib.metadata import requires

import images
import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
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


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_white_letters_on_nothing_are_laid_on_black(mode, channels):
    clear = Image.new("RGBA", (60, 20), (255, 255, 255, 0))
    clear.paste((250, 250, 250, 255), (10, 5, 30, 15))
    opened = images.open_image(encoded(clear.convert(mode)), channels)
    assert opened[10, 20].min() > 200 and opened[0, 0].max() == 0
    clear.putpixel((12, 7), (0, 0, 0, 255))  # a speck
    assert images.open_image(encoded(clear.convert(mode)), channels)[0, 0].max() == 0
    clear.paste((0, 0, 0, 255), (12, 7, 20, 12))  # on paper of its own, however light that is
    assert images.open_image(encoded(clear.convert(mode)), channels)[0, 0].min() > 200


@pytest.mark.parametrize("extension", [b"!\x01\x00", b"!\xf9\x00", b"!\xff\x0bNETSCAPE2.0\x00"])
def test_a_gif_ends_where_pillow_would_not_see_the_end_of_an_extension(extension):
    frame = b"," + struct.pack("<4HB", 0, 0, 5000, 4999, 0) + b"\x08\x01\x00\x00"
    hidden = b"!\x01\xff" + bytes(31) + b"\x00" + frame + bytes(300)  # Pillow takes "!" for a block's length
    content = encoded(Image.new("P", (10, 10)), "GIF").rstrip(b";") + extension + hidden + b";"
    assert images.open_image(content).shape == (10, 10, 1)


def test_a_png_has_one_size():
    content = encoded(Image.new("L", (10, 10), 255), "PNG")
    at = content.index(b"IDAT") - 4
    second = b"IHDR" + struct.pack(">IIBBBBB", 5000, 4999, 8, 0, 0, 0, 0)
    second = struct.pack(">I", 13) + second + struct.pack(">I", zlib.crc32(second))
    assert images.open_image(content[:at] + second + content[at:]).shape == (10, 10, 1)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_read_from_its_first_frame_that_is_not_blank(form):
    frames = [Image.new("RGB", (60, 20), "white") for _ in range(4)]
    frames[2].paste((0, 0, 0), (10, 5, 30, 15))
    frames[3].paste((0, 0, 0), (40, 5, 50, 15))
    frames[1].putpixel((0, 0), (254, 254, 254))  # or Pillow would leave it out
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50)
    opened = images.open_image(data)
    assert opened[10, 20] < 50 and opened[10, 45] > 200
    blank = encoded(frames[0], form, save_all=True, append_images=frames[1:2], duration=50)
    assert images.open_image(blank).min() > 250


def test_a_gif_of_very_many_blocks_is_refused():
    data = encoded(Image.new("L", (60, 20), 255), "GIF")
    with pytest.raises(images.ImageError, match="too long"):
        images.open_image(data[:-1] + b"!\xfe" + b"\1\0" * 1_100_000 + b"\0;")
    with pytest.raises(images.ImageError, match="too long"):
        images.open_image(data[:-1] + b"\0" * 110_000 + b";")


@pytest.mark.parametrize("between", [b"", b"\0\1\2"])
def test_a_frame_beyond_the_edges_of_a_gif_is_left_out(between):
    frames = [Image.new("L", (60, 20), 255), Image.new("L", (60, 20), 0)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50, disposal=2)
    second = data.rindex(b",\0\0\0\0")
    large = struct.pack("<4H", 0, 0, 12_000, 12_000)
    assert (images.open_image(data) == 0).all()
    opened = images.open_image(data[:second] + between + b"," + large + data[second + 9 :])
    assert opened.shape == (20, 60, 1) and (opened == 255).all()


def test_two_lines_are_noticed():
    line = np.full((50, 200, 1), 255, np.uint8)
    line[15:35, 20:180:9] = 0
    assert not images.has_two_lines(line)
    two = np.concatenate([line, line])
    assert images.has_two_lines(two)
    two[:2] = two[-2:] = two[:, :2] = two[:, -2:] = 0  # in a frame, as on a plate
    assert images.has_two_lines(two)
    assert not any(images.has_two_lines(images.open_image(path)) for path in EXAMPLES)
    assert not images.has_two_lines(np.zeros((1, 1, 1), np.uint8))


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
        ("a\0b.png", "NUL"),
        (b"\0\0\0\x18ftypheic" + bytes(16), "HEIC"),
        (b"\0\0\0\x18ftypavif" + bytes(16), "AVIF"),
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
    "PNG": (PNG[:33] + chunks(b"prVt", 100_001) + PNG[33:], "too long"),
    "PNG behind its pixels": (PNG[:-12] + chunks(b"prVt", 100_001) + PNG[-12:], "too long"),
    "JPEG": (JPEG[:2] + b"\xff\xfe\0\2" * 100_001 + JPEG[2:], "too long"),
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
    """A photograph with a film behind it, a stream that can't go back."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (1000, 1200, 3), np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG")
    photograph = file.getvalue() + rng.bytes(8_000_000)
    assert images.open_image(photograph).shape == (1000, 1200, 1)
    assert images.open_image(Stream(photograph)).shape == (1000, 1200, 1)


@pytest.mark.parametrize("compression", [1, 2])
def test_a_run_length_encoded_bmp_is_refused(compression):
    """Its escapes move the pen as often and as far as they like, and Pillow makes room for all of it."""
    jumps = b"\0\2\0\xff" * 250 + b"\0\1"
    bits = 8 if compression == 1 else 4
    head = struct.pack("<IiiHHIIiiII", 40, 20_000, 600, 1, bits, compression, len(jumps), 0, 0, 2, 0)
    data = b"BM" + struct.pack("<IHHI", 62 + len(jumps), 0, 0, 62) + head + bytes(8) + jumps
    with pytest.raises(images.ImageError, match="Run-length encoded"):
        images.open_image(data)


def directory(tags, block, is_big=False):
    """Make a TIFF or EXIF of a directory; tags without a value claim the whole block behind it."""
    word, length, room = ("Q", "Q", 8) if is_big else ("I", "H", 4)
    at = 2 * room
    place = at + struct.calcsize("<" + length) + len(tags) * (4 + 2 * room) + room
    packed = [struct.pack(f"<HH{word}{word}", *tag[:3], tag[3] if len(tag) > 3 else place) for tag in tags]
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, at) if is_big else struct.pack("<2sHI", b"II", 42, at)
    return head + struct.pack("<" + length, len(tags)) + b"".join(packed) + bytes(room) + block


def claims(size):
    return [(0x9000 + number, 7, size) for number in range(2000)]


def png_with(name, content):
    return PNG[:33] + struct.pack(">I", len(content)) + name + content + crc(name + content) + PNG[33:]


def crc(content):
    return struct.pack(">I", zlib.crc32(content))


def jpeg_with(*segments):
    packed = b"".join(
        b"\xff" + mark + struct.pack(">H", 2 + len(content)) + content for mark, content in segments
    )
    return SMALL_JPEG[:2] + packed + SMALL_JPEG[2:]


SMALL_JPEG = encoded(Image.new("L", (20, 10)), "JPEG")
GREY = [(256, 3, 1, 20), (257, 3, 1, 10), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
GREY += [(278, 3, 1, 10), (279, 4, 1, 200)]
CLAIMS = directory(claims(200_000), bytes(200_000))
PROFILE = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n1\n" + CLAIMS.hex().encode())
WIDE = [b"%d\0\1\0\0\0" % number + zlib.compress("\U0001f600".encode() + bytes(10**6)) for number in range(9)]
FRAME = b"\x08\0\x0a\0\x14\1" + bytes(65_526)
SWELLING = {
    "PNG's EXIF": lambda: png_with(b"eXIf", CLAIMS),
    "PNG's EXIF in a text": lambda: png_with(b"zTXt", PROFILE),
    "PNG's EXIF in a long text": lambda: png_with(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(50_000_000))
    ),
    "PNG's texts": lambda: (
        PNG[:33] + b"".join(png_with(b"iTXt", text)[33 : -len(PNG) + 33] for text in WIDE) + PNG[33:]
    ),
    "PNG's numbers": lambda: png_with(b"cHRM", bytes(1_000_000)),
    "JPEG's EXIF": lambda: jpeg_with((b"\xe1", b"Exif\0\0" + directory(claims(36_000), bytes(36_000)))),
    "JPEG's EXIF, in parts": lambda: jpeg_with(
        *((b"\xe1", b"Exif\0\0" + CLAIMS[at : at + 60_000]) for at in range(0, len(CLAIMS), 60_000))
    ),
    "JPEG's pictures": lambda: jpeg_with((b"\xe2", b"MPF\0" + directory(claims(36_000), bytes(36_000)))),
    "JPEG's frames": lambda: jpeg_with(*((b"\xc0", FRAME),) * 20),
    "WebP's EXIF": lambda: encoded(Image.new("L", (20, 10)), "WEBP", exif=CLAIMS),
    "TIFF": lambda: directory(GREY + claims(200_000), bytes(200_000)),
    "BigTIFF": lambda: directory(GREY + claims(200_000), bytes(200_000), is_big=True),
    "TIFF's rationals": lambda: directory([*GREY, (700, 5, 25_000)], bytes(200_000)),
    "TIFF's EXIF": lambda: directory([*GREY, (34665, 4, 1)], CLAIMS[8:]),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of the damage
@pytest.mark.parametrize("make", SWELLING.values(), ids=SWELLING)
def test_metadata_that_swells_takes_no_memory(make):
    """Tags that all claim one block, up to 400 MB; numbers as objects; text of 4 bytes a letter."""
    data = make()
    tracemalloc.start()
    try:
        assert images.open_image(data).shape == (10, 20, 1)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


DEFLATED = [(258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1)]


def tiles(width, height, side):
    sides = [(256, 4, 1, width), (257, 4, 1, height), (322, 4, 1, side), (323, 4, 1, side)]
    return directory([*sides, *DEFLATED, (324, 4, 1), (325, 4, 1, 0)], b"")


def strips(count):
    """Make a TIFF of strips that are one and the same block."""
    place = 8 + 2 + 12 * 8 + 4
    arrays = struct.pack(f"<{2 * count}I", *[place + 8 * count] * count, *[50_000] * count)
    tags = [(256, 4, 1, 20), (257, 4, 1, count), *DEFLATED, (278, 4, 1, 1)]
    return directory([*tags, (273, 4, count), (279, 4, count, place + 4 * count)], arrays + bytes(50_000))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiles(10, 10, 30_000), "pixels"),
        (tiles(65_000, 10, 3600), "pixels"),
        (strips(100), "lie over each other"),
        (encoded(Image.new("1", (65_536, 1))), "side"),
    ],
    ids=["a tile of 900 megapixels", "many tiles", "strips", "a row"],
)
def test_pixels_that_swell_are_refused(data, words):
    """Tiles are decoded whole, strips each by itself, and each row has an address."""
    with pytest.raises(images.ImageError, match=words):
        images.open_image(data)


def reference(data):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return np.asarray(image.convert("L"))[:, :, None]


GRADIENT = Image.fromarray(np.arange(40 * 20 * 3, dtype=np.uint32).astype(np.uint8).reshape(20, 40, 3))
OTHERS = {"save_all": True, "append_images": [GRADIENT.rotate(180)]}
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ORDINARY = [(form, {}) for form in images.FORMATS]
ORDINARY += [(form, OTHERS) for form in ("PNG", "GIF", "WEBP", "TIFF", "MPO")]
ORDINARY += [(form, {"icc_profile": ICC}) for form in ("PNG", "JPEG", "WEBP", "TIFF")]
ORDINARY += [
    ("TIFF", {"compression": way}) for way in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "lzma")
]
ORDINARY += [("TIFF", {"big_tiff": True}), ("WEBP", {"lossless": True}), ("JPEG", {"progressive": True})]


@pytest.mark.parametrize(("form", "options"), ORDINARY)
def test_what_is_left_out_is_not_missed(form, options):
    data = encoded(GRADIENT, form, **options)
    difference = np.abs(images.open_image(data).astype(int) - reference(data))
    assert difference.max() <= (0 if form not in ("JPEG", "MPO") else 3)  # a JPEG's grey is its own


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = b'<rdf:Description tiff:Orientation="%d"/>' % orientation
    files = [encoded(GRADIENT, form, exif=exif) for form in ("PNG", "JPEG", "WEBP", "TIFF")]
    files += [encoded(GRADIENT, form, exif=exif, **OTHERS) for form in ("PNG", "WEBP", "MPO")]
    files += [encoded(GRADIENT, form, xmp=xmp) for form in ("JPEG", "WEBP")]
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n1\n{exif.tobytes().hex()}", zip=True)
    files += [encoded(GRADIENT, pnginfo=text), encoded(GRADIENT, "TIFF", exif=exif, big_tiff=True)]
    for data in files:
        difference = np.abs(images.open_image(data).astype(int) - reference(data))
        assert difference.mean() < 1


def test_only_files_are_read_and_not_endlessly(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", "/dev/zero"):
        with pytest.raises(images.ImageError, match="not a file"):
            images.open_image(path)
    monkeypatch.setattr(images, "MAX_BYTES", 1000)
    with pytest.raises(images.ImageError, match="more than 1,000 bytes"):
        images.open_image(io.BytesIO(PNG + bytes(1000)))
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2000)
    with pytest.raises(images.ImageError, match="more than 1,000 bytes"):
        images.open_image(tmp_path / "large.png")


def test_gradio_still_holds_pillow_back():
    (pillow,) = [Requirement(line) for line in requires("gradio") if line.lower().startswith("pillow")]
    allowed = "gradio allows Pillow 13: allow it in demo_app/requirements.txt, too."
    assert not pillow.specifier.contains("13.0.0"), allowed

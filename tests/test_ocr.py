"""demo_app/ocr.py: opening, decoding, loading, the command line."""

import contextlib
import csv
import io
import itertools
import os
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import ocr
import pytest
from PIL import Image
from runs import ROOT

EXAMPLES = sorted((ROOT / "demo_app" / "Examples").iterdir())


@pytest.fixture(scope="module")
def recognizer():
    return ocr.Recognizer()


def encoded(image, suffix="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


def test_every_kind_of_source_gives_the_same_pixels():
    path = EXAMPLES[0]
    expected = ocr.open_image(path)
    assert expected.dtype == np.uint8 and expected.ndim == 3 and expected.shape[2] == 1
    with path.open("rb") as file:
        sources = [str(path), path.read_bytes(), file, Image.open(path), expected, expected[:, :, 0]]
        sources.append(np.repeat(expected, 3, axis=2))
        for source in sources:
            np.testing.assert_array_equal(ocr.open_image(source), expected)


def test_formats_and_modes():
    grey = Image.fromarray(np.linspace(0, 255, 200 * 50).astype(np.uint8).reshape(50, 200))
    for suffix, mode in itertools.product(ocr.FORMATS, ("L", "RGB")):
        opened = ocr.open_image(encoded(grey.convert(mode), suffix))
        assert opened.shape == (50, 200, 1)
        assert np.abs(opened[:, :, 0] - np.asarray(grey, int)).mean() < 3, (suffix, mode)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert np.abs(ocr.open_image(encoded(deep))[:, :, 0] - np.asarray(grey, int)).max() <= 1


def test_transparency_is_white_and_rotation_is_applied():
    clear = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    assert (ocr.open_image(encoded(clear)) == 255).all()
    palette = Image.new("P", (4, 2), 0)
    assert (ocr.open_image(encoded(palette, transparency=0)) == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert ocr.open_image(encoded(Image.new("L", (40, 20)), "JPEG", exif=exif)).shape == (40, 20, 1)


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
    with pytest.raises(ocr.ImageError, match=words) as caught:
        ocr.open_image(source)
    assert str(caught.value).endswith(".")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of the damage
def test_no_damage_escapes_as_another_error():
    """Seeded flips and cuts of each format: an array or an ImageError, nothing else."""
    rng = np.random.default_rng(0)
    image = Image.open(EXAMPLES[0]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 3
    for suffix in ocr.FORMATS:
        data = encoded(image, suffix, **({"exif": exif} if suffix in ("JPEG", "WEBP", "TIFF") else {}))
        for _ in range(300):
            damaged = bytearray(data[: rng.integers(1, len(data) + 1)])
            for position in rng.integers(0, min(len(damaged), 400), rng.integers(1, 5)):
                damaged[position] = rng.integers(256)
            with contextlib.suppress(ocr.ImageError):
                assert ocr.open_image(bytes(damaged)).dtype == np.uint8


def test_a_large_image_is_converted_in_strips(monkeypatch):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (41, 30)).astype(np.uint8)
    deep = rng.integers(0, 65_536, (41, 30)).astype(np.uint16)
    rgba = rng.integers(0, 256, (41, 30, 4)).astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    images = [encoded(Image.fromarray(array)) for array in (grey, deep, rgba)]
    images.append(encoded(Image.fromarray(deep.astype(np.float32)), "TIFF"))
    images.append(encoded(Image.fromarray(grey).convert("P"), transparency=7))
    images.append(encoded(Image.fromarray(rgba[..., :3]), "JPEG", exif=turned))
    for image, channels in itertools.product(images, (1, 3)):
        monkeypatch.setattr(ocr, "STRIP_PIXELS", 1_000_000)
        expected = ocr.open_image(image, channels)
        monkeypatch.setattr(ocr, "STRIP_PIXELS", 100)
        np.testing.assert_array_equal(ocr.open_image(image, channels), expected)


def test_an_image_that_was_given_open_is_left_as_it_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)))
    assert ocr.open_image(image).shape == (40, 20, 1)
    assert (image.size, image.mode) == ((40, 20), "RGB") and image.getexif()[0x0112] == 6


def test_a_photograph_is_read_and_a_smaller_one_where_decoders_need_more():
    assert ocr.open_image(encoded(Image.new("RGB", (6000, 4000)), "JPEG")).shape == (4000, 6000, 1)
    for image in (encoded(Image.new("L", (5000, 4000)), "TIFF"), Image.new("CMYK", (5000, 4000))):
        with pytest.raises(ocr.ImageError, match="13,000,000 pixels"):
            ocr.open_image(image)


def chunks(name, count):
    return (struct.pack(">I", 0) + name + struct.pack(">I", zlib.crc32(name))) * count


JPEG = encoded(Image.new("RGB", (200, 100), "grey"), "JPEG", progressive=True)
LAYER = JPEG[JPEG.rindex(b"\xff\xda") : -2]
TIFF = struct.pack("<2sHIH", b"II", 42, 8, 1) + struct.pack("<HHII", 273, 4, 200_000, 26) + bytes(800_004)
BIG_TIFF = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 1) + struct.pack("<HHQQ", 324, 4, 200_000, 44)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (PNG[:33] + chunks(b"prVt", 60_000) + PNG[33:], "too long"),
        (PNG[:-12] + chunks(b"prVt", 60_000) + PNG[-12:], "too long"),
        (JPEG[:2] + b"\xff\xfe\0\2" * 50_000 + JPEG[2:], "too long"),
        (JPEG[:-2] + LAYER * 60_000 + JPEG[-2:], "layers"),
        (TIFF, "200,000 parts"),
        (BIG_TIFF + bytes(800_000), "200,000 parts"),
        (TIFF[:9], "not an image"),
    ],
)
def test_files_of_very_many_parts_are_refused(data, words):
    with pytest.raises(ocr.ImageError, match=words):
        ocr.open_image(data)


def test_parts_that_swell_are_given_up(monkeypatch):
    swelling = b"a\0\0" + zlib.compress(bytes(1000))
    part = struct.pack(">I", len(swelling)) + b"iCCP" + swelling
    part += struct.pack(">I", zlib.crc32(part[4:]))
    data = PNG[:33] + part * 4000 + PNG[33:]
    assert len(data) > ocr.SMALL_BYTES and ocr.open_image(data).shape == (10, 20, 1)
    monkeypatch.setattr(ocr, "MAX_SECONDS", 0)
    with pytest.raises(ocr.ImageError, match="too long"):
        ocr.open_image(data)


@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1)])
def test_extreme_shapes_are_read(recognizer, size):
    reading = recognizer.read(encoded(Image.new("L", size, 99)))
    assert all(0 <= part.left < part.right <= size[0] for part in reading.characters)


def collapse(path):
    return tuple(label for label, _ in itertools.groupby(path) if label != ocr.BLANK)


@pytest.mark.parametrize("lengths", [(0, 5), (2, 3), (3, 3), (5, 5)])
def test_decode_and_align_agree_with_all_paths_counted_one_by_one(lengths):
    rng = np.random.default_rng(0)
    frames = rng.dirichlet([0.3] * 3, size=(40, 5)).astype(np.float32)  # 5 frames, 2 characters
    labels, confidences = ocr.decode(frames, lengths)
    alignments = ocr.align(frames, labels)
    for row in range(len(frames)):
        totals, best = {}, {}
        for path in itertools.product(range(3), repeat=5):
            chance = np.prod(frames[row, range(5), path])
            text = collapse(path)
            totals[text] = totals.get(text, 0) + chance
            best[text] = max(best.get(text, (0, ())), (chance, path))
        text = tuple(labels[row][labels[row] != ocr.BLANK])
        odds = {text: 1 if lengths[0] <= len(text) <= lengths[1] else ocr.UNUSUAL for text in totals}
        assert text == max(totals, key=lambda text: totals[text] * odds[text])
        assert confidences[row] == pytest.approx(totals[text], rel=1e-3)
        emitted = [0 if position < 0 else text[position] for position in alignments[row]]
        assert np.prod(frames[row, range(5), emitted]) == pytest.approx(best[text][0], rel=1e-4)
        assert collapse(emitted) == text


@pytest.mark.parametrize("frame_count", [1, 2, 3, 4, 5, 50])
@pytest.mark.parametrize("classes", [2, 3, 20])
def test_few_frames_of_few_characters_are_searched(frame_count, classes):
    frames = np.full((1, frame_count, classes), 1 / classes, np.float32)
    labels, (confidence,) = ocr.decode(frames, [1, 1])
    assert labels.shape[1] <= frame_count
    assert 0 <= confidence <= 1


def test_a_text_is_cut_off(recognizer):
    """The model knows texts of five characters only, but does not read five into less at any price."""
    cut = [recognizer.read(ocr.open_image(path)[:, :width]) for path in EXAMPLES for width in (100, 110, 120)]
    short = [reading for reading in cut if len(reading.text) < 5]
    assert len(short) > len(cut) / 3
    for reading in cut:
        texts = recognizer.alternatives(reading)
        assert [chance for _, chance in texts] == sorted((chance for _, chance in texts), reverse=True)
        text, chance = texts[0]
        if len(reading.text) == 5:
            assert reading.confidence >= ocr.UNUSUAL * chance * 0.999
        else:
            assert (reading.text, reading.sure) == (text, False)
            assert reading.confidence == pytest.approx(chance, rel=1e-3)


def test_a_reading_says_where_each_character_stands(recognizer):
    for path in EXAMPLES:
        reading = recognizer.read(path)
        assert "".join(character.text for character in reading.characters) == reading.text
        assert reading.frames.dtype == np.float32
        np.testing.assert_allclose(reading.frames.sum(axis=1), 1, atol=1e-4)
        edges = [edge for c in reading.characters for edge in (c.left, c.right)]
        assert edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= 200
        doubled = recognizer.read(Image.open(path).resize((400, 100), Image.Resampling.BICUBIC))
        if doubled.text == reading.text:
            shift = [b.left - 2 * a.left for a, b in zip(reading.characters, doubled.characters, strict=True)]
            assert np.abs(shift).max() <= 16  # two frames of the larger image


def test_a_batch_reads_like_one_by_one_in_any_mix_of_sizes(recognizer):
    images = [ocr.open_image(path) for path in EXAMPLES]
    images += [image[:, :150] for image in images] + [np.zeros((1, 1), np.uint8)]
    images += [np.zeros((2, 3000), np.uint8), np.zeros((3000, 2), np.uint8)]
    single = [recognizer.read(image) for image in images]
    batch = recognizer.read_batch(iter(images))
    assert [r.text for r in batch] == [r.text for r in single]
    np.testing.assert_allclose([r.confidence for r in batch], [r.confidence for r in single], atol=1e-3)
    assert all(0 <= reading.confidence <= 1 for reading in batch)
    assert recognizer.read_batch([]) == []
    with pytest.raises(ocr.ImageError, match="Image 1: "):
        recognizer.read_batch([images[0], b"no image"])


def test_many_images_are_read_in_their_order_with_the_errors_among_them(recognizer, monkeypatch):
    monkeypatch.setattr(ocr, "AHEAD", 4)
    sources = [EXAMPLES[n % len(EXAMPLES)] if n % 3 else b"no image" for n in range(30)]
    readings = list(recognizer.read_each(iter(sources)))
    for source, reading in zip(sources, readings, strict=True):
        assert isinstance(reading, ocr.ImageError) if source == b"no image" else reading.text == source.stem

    def interrupted():
        yield from sources
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(recognizer.read_each(interrupted()))
    opened = []
    readings = recognizer.read_each(opened.append(n) or EXAMPLES[0] for n in range(1000))
    assert next(readings).text == EXAMPLES[0].stem
    readings.close()
    assert len(opened) <= 8  # it opens no more than is asked for


def test_large_images_are_read_in_smaller_batches(recognizer, monkeypatch):
    images = [ocr.open_image(path) for path in EXAMPLES]
    expected = [reading.text for reading in recognizer.read_batch(images)]
    monkeypatch.setattr(ocr, "BATCH_PIXELS", 3 * images[0].size)
    assert [reading.text for reading in recognizer.read_batch(images)] == expected


def test_the_command_line_reads_folders_and_reports_bad_files(tmp_path):
    shutil.copytree(ROOT / "demo_app" / "Examples", tmp_path / "images")
    shutil.copy(EXAMPLES[0], tmp_path / "images" / "\udcff.png")  # a name that is not UTF-8
    (tmp_path / "images" / "bad.png").write_bytes(b"no image")
    command = [sys.executable, str(ROOT / "demo_app" / "ocr.py"), "images", "--csv", "out.csv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "bad.png: This file is not an image" in done.stderr
    assert len(done.stdout.splitlines()) == len(EXAMPLES) + 1
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["file"].rpartition(os.sep)[2]: row for row in csv.DictReader(file)}
    assert rows.pop("bad.png")["error"] and rows.pop(r"\udcff.png")["text"] == EXAMPLES[0].stem
    assert {name: row["text"] for name, row in rows.items()} == {p.name: p.stem for p in EXAMPLES}
    (tmp_path / "images" / "bad.png").unlink()
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    (tmp_path / "empty").mkdir()
    done = subprocess.run([*command[:2], "empty"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "no .png" in done.stderr


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
    assert ocr.open_image(photograph).shape == (1000, 1200, 1)
    width, height = 400, 300
    row = b"".join(bytes([1, value]) for value in rng.integers(0, 256, width)) + b"\0\0"
    pixels, palette = row * height + b"\0\1", bytes(range(256)) * 4
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    bmp = b"BM" + struct.pack("<IHHI", 1078 + len(pixels), 0, 0, 1078) + sizes + palette + pixels
    assert len(bmp) > 2 * ocr.MAX_PARTS and ocr.open_image(bmp).shape == (height, width, 1)
    assert ocr.open_image(Stream(photograph)).shape == (1000, 1200, 1)

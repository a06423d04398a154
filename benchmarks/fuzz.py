"""Throw what is nearly right at all that reads files. `python benchmarks/fuzz.py` writes `fuzz.json`.

Hypothesis draws files that know their format: parts, tags, escapes, places and sizes, each of them as usual,
at an edge or wrong, once or very often. Then it goes on from those that took most time or memory. Each input
must end in a result or in a documented error with a sentence, within `SECONDS` and `MEGABYTES`. The smallest
one of a kind that doesn't is kept in `FOLDER`. `python benchmarks/fuzz.py tiff 500` throws 500 of one kind.
"""

import ctypes
import faulthandler
import functools
import io
import json
import pickle
import resource
import signal
import struct
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import runs
from hypothesis import HealthCheck, Phase, configuration, given, seed, settings, target
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, scalar_dtypes
from PIL import Image

SECONDS, MEGABYTES = 2, 300  # of the processor and of memory, for an input
HANGS, STUCK = 8, 100  # seconds of the processor until an input is given up, and until its process is
SIZE = 20_000_000  # bytes of a file
ADDRESSES = 8_000_000_000  # bytes that an input may ask for
FOLDER = runs.WORK / "fuzz"
Draw = Callable[[st.SearchStrategy], Any]
Bytes = st.SearchStrategy[bytes]

LENGTHS = (4, 0, 1, 9, 9, 40, 300, 1000, 1000, 30_000, 60_000, 10**6, 9)
edges = (0, 1, 2, 8, 16, 24, 32, 255, 256, 1000, 65_535, 65_536, 10**6, 2**31 - 1, 2**31, 2**32 - 1)
numbers = st.integers(0, 300) | st.sampled_from(edges)
sides = st.sampled_from((60, 1, 2, 7, 20, 400, 3600, 5000, 20_000, 65_535, 12_500_000))
counts = st.sampled_from((1,) * 90 + (2, 2, 30, 30, 30, 300, 300, 3000, SIZE, 1))

patterns = st.sampled_from((b"\0", b"\1", b"\xff", "\U0001f600".encode())) | st.binary(min_size=1, max_size=8)


def files(draw_from: Callable[..., bytes]) -> Callable[..., Bytes]:
    """Make a strategy of a function, of bytearrays: Hypothesis would hold all bytes that were ever drawn."""
    return st.composite(functools.wraps(draw_from)(lambda *given: bytearray(draw_from(*given))))


@files
def filler(draw: Draw, lengths: tuple[int, ...] = LENGTHS) -> bytes:
    """Draw a pattern that is repeated."""
    pattern, length = draw(patterns), draw(st.sampled_from(lengths))
    return (pattern * (length // len(pattern) + 1))[:length]


@functools.lru_cache(100)
def squeeze(content: bytes, times: int = 1) -> bytes:
    """Compress a content that is repeated some times."""
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(content) for _ in range(times)), packer.flush()])


@files
def squeezed(draw: Draw) -> bytes:
    """Draw what is compressed, some of it very well."""
    times = draw(st.sampled_from((1,) * 20 + (25, 400, 1)))
    return squeeze(bytes(draw(filler())) if times == 1 else bytes(10**6), times)


def often(draw: Draw, part: Callable[[int], bytes]) -> bytes:
    """Draw how often a part comes; it may depend on its number."""
    count = min(draw(counts), SIZE // len(part(0)))
    return part(0) * count if count > 3000 else b"".join(map(part, range(count)))


def put_in(draw: Draw, parts: list[bytes], part: Bytes, first: int = 1) -> bytes:
    """Put some parts into a list of parts, not before the first ones, or leave one out; join."""
    parts = parts.copy()
    for _ in range(draw(st.integers(0, 3))):
        parts.insert(draw(st.integers(first, len(parts))), draw(part))
    if draw(st.sampled_from((False, False, False, True))):
        del parts[draw(st.integers(0, len(parts) - 1))]
    return b"".join(parts)


@files
def damaged(draw: Draw, contents: Bytes) -> bytes:
    """Change a few bytes of one file in three, most of them near its beginning, and cut it off."""
    content = bytearray(draw(contents)[:SIZE])
    if content and draw(st.sampled_from((False, False, True))):
        for _ in range(draw(st.integers(0, 3))):
            content[draw(st.integers(0, min(len(content), 400) - 1))] = draw(st.integers(0, 255))
        if draw(st.booleans()):
            del content[draw(st.integers(0, len(content))) :]
    return bytes(content)


@functools.cache
def encode(form: str, mode: str, megapixels: int, **options: object) -> bytes:
    """Encode an image of 60x20 pixels, or a square one: of megapixels, of noise if less than 0."""
    rng = np.random.default_rng(0)
    side = round((abs(megapixels) * 1e6) ** 0.5)
    image = Image.fromarray(rng.integers(0, 256, (side, side) if megapixels < 0 else (20, 60, 3), np.uint8))
    if megapixels > 0:
        image = image.resize((side, side), Image.Resampling.NEAREST)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif image.mode != mode:
        image = image.convert(mode)
    if options.get("save_all"):
        options["append_images"] = [image.rotate(90)] * 3
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def bases(form: str, modes: str, option: str = "", *values: object) -> Bytes:
    """Draw a real file of a format, some with an option; one in 500 is as large as may be."""
    kinds = [(mode, {}) for mode in modes.split()] + [("RGB", {option: value}) for value in values]
    most = 12 if form in ("WEBP", "TIFF", "GIF") else 25
    large = [(mode, 12 if mode == "CMYK" else most, options) for mode, options in kinds]
    small = [(mode, 0, options) for mode, options in kinds] * 250
    choices = [*small, *large, ("L", -min(most, 18), {}), *small]
    return st.builds(lambda choice: encode(form, *choice[:2], **choice[2]), st.sampled_from(choices))


UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
TAGS = [*range(254, 264), *range(270, 287), 320, 322, 324, 330, 338, 339, 347, 513, 529, 700, 33723, 34377]
TAGS += [34665, 34675, 34853, 37500, 40965, 45056, 45057, 45058]
BLOCK, HERE = -1, -2  # where a tag points: behind the directory, or to the directory


@files
def directories(draw: Draw, entries: list[tuple[int, ...]], order: str, word: str, at: int) -> bytes:
    """Draw a directory of (tag, type, count, value or place), and the block behind it that tags point to."""
    block = draw(filler((0, 9, 300, 60_000, 10**6, 9)) | squeezed())
    if draw(st.booleans()):
        number, field, change = draw(st.integers(0, len(entries) - 1)), draw(st.integers(1, 3)), draw(numbers)
        entry = [change if place == field else value for place, value in enumerate(entries[number])]
        entries = [*entries[:number], tuple(entry), *entries[number + 1 :]]
    for _ in range(draw(st.integers(0, 2))):
        tag, kind = draw(st.sampled_from(TAGS) | numbers), draw(st.sampled_from((*UNITS, 0, 99)))
        count = draw(st.just(len(block) // UNITS.get(kind, 1)) | numbers)
        place = draw(st.sampled_from((BLOCK, BLOCK, BLOCK, HERE)) | numbers)
        copies = draw(st.sampled_from((1, 1, 1, 30, 3000, 1)))
        entries = [*entries, *((tag + copy, kind, count, place) for copy in range(copies))]
    room, length = struct.calcsize(order + word), "Q" if word == "Q" else "H"
    behind = at + struct.calcsize(order + length) + len(entries) * (4 + 2 * room) + room
    packed = struct.pack(order + length, len(entries))
    for tag, kind, count, value in entries:
        code = "H" if kind == 3 and count == 1 else word
        value = {BLOCK: behind, HERE: at}.get(value, value) % 256 ** struct.calcsize(order + code)
        packed += struct.pack(f"{order}HH{word}", tag % 65_536, kind % 65_536, count)
        packed += struct.pack(order + code, value).ljust(room, b"\0")
    return packed + struct.pack(order + word, draw(st.sampled_from((0, 0, at, behind)))) + block


def head(order: str, word: str, at: int) -> bytes:
    """Make the head of a TIFF or of EXIF."""
    sizes = struct.pack(order + "HHHQ", 43, 8, 0, at) if word == "Q" else struct.pack(order + "HI", 42, at)
    return (b"II" if order == "<" else b"MM") + sizes


@files
def exifs(draw: Draw) -> bytes:
    """Draw EXIF with an orientation."""
    order, word = draw(st.sampled_from("<>")), draw(st.sampled_from("IIIQ"))
    at = 16 if word == "Q" else 8
    return head(order, word, at) + draw(directories([(274, 3, 1, draw(st.integers(0, 9)))], order, word, at))


def split(content: bytes, at: int, form: str, more: int, pad: int) -> list[bytes]:
    """Split a PNG or WebP into its head and its chunks."""
    parts = [content[:at]]
    while at + 8 <= len(content):
        size = max(part for part in struct.unpack_from(form, content, at) if isinstance(part, int)) + more
        parts.append(content[at : at + 8 + size + size % pad])
        at += len(parts[-1])
    return parts


@files
def chunks(draw: Draw) -> bytes:
    """Draw a chunk of a PNG, once or often."""
    kind = draw(st.sampled_from((b"text", b"IHDR", b"eXIf", b"iCCP", b"IDAT", b"")))
    name, content = kind, draw(filler())
    if kind == b"text":
        name, start = draw(st.sampled_from(((b"tEXt", b"\0"), (b"zTXt", b"\0\0"), (b"iTXt", b"\0\1\0\0\0"))))
        text = b"\n\n\n" + draw(exifs()).hex().encode() if draw(st.booleans()) else draw(filler())
        content = draw(st.sampled_from((b"a", b"Raw profile type exif", b"XML:com.adobe.xmp"))) + start
        content += text if name == b"tEXt" else squeeze(bytes(text))
    elif kind == b"IHDR":
        depth, colour = draw(st.sampled_from((1, 2, 4, 8, 16))), draw(st.sampled_from((0, 2, 3, 4, 6)))
        more = (depth, colour, 0, 0, draw(st.integers(0, 1)))
        content = struct.pack(">IIBBBBB", draw(sides), draw(sides), *more)
    elif kind == b"eXIf":
        content = draw(exifs())
    elif kind:
        content = (b"a\0\0" if kind == b"iCCP" else b"") + draw(squeezed())
    else:
        name = draw(st.sampled_from((b"PLTE", b"tRNS", b"cHRM", b"acTL", b"fcTL", b"fdAT", b"prVt", b"IEND")))

    def chunk(number: int) -> bytes:
        body = name + (b"%d" % number if kind == b"text" and number else b"") + content
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    return often(draw, chunk)


@files
def pngs(draw: Draw) -> bytes:
    """Draw a PNG."""
    base = bases("PNG", "1 L LA P RGB RGBA I;16", "save_all", True)
    return put_in(draw, split(draw(base), 8, ">I4x", 4, 1), chunks())


@files
def segments(draw: Draw) -> bytes:
    """Draw segments of a JPEG."""
    kind = draw(st.sampled_from(("EXIF", "MPF", "profile", "Photoshop", "frame", "other")))
    if kind == "EXIF":  # goes on over several segments
        exif = draw(exifs())
        pieces = [b"Exif\0\0" + exif[start : start + 65_000] for start in range(0, len(exif), 65_000)]
        return b"".join(b"\xff\xe1" + struct.pack(">H", 2 + len(piece)) + piece for piece in pieces)
    marker, content = draw(st.sampled_from(b"\xfe\xe0\xe5\xee\xdb\xc4\xdd\xda\xc8\xd8")), draw(filler())
    if kind == "MPF":
        entries = [(0xB001, 4, 1, 2), (0xB002, 7, 32, BLOCK)]
        marker, content = 0xE2, b"MPF\0" + head("<", "I", 8) + draw(directories(entries, "<", "I", 8))
    elif kind == "profile":
        marker, content = 0xE2, b"ICC_PROFILE\0\1" + content
    elif kind == "Photoshop":
        marker, content = 0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * draw(st.integers(0, 6000))
    elif kind == "frame":
        marker, layers = draw(st.sampled_from(b"\xc0\xc2\xc9")), draw(st.sampled_from((1, 3, 4)))
        content = struct.pack(">BHHB", 8, draw(sides) % 65_536, draw(sides) % 65_536, layers)
        content += draw(st.just(b"\1\x11\0" * layers) | filler())
        content = content[: 6 + (len(content) - 6) // 3 * 3]
    content = content[:65_532]
    return often(draw, lambda _: bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content)


@files
def jpegs(draw: Draw) -> bytes:
    """Draw a JPEG, the last layer of some of them often."""
    base = draw(bases("JPEG", "L RGB CMYK", "progressive", True))
    at, parts = 2, [base[:2]]
    while base[at + 1] != 0xDA:
        parts.append(base[at : at + 2 + int.from_bytes(base[at + 2 : at + 4], "big")])
        at += len(parts[-1])
    last = base.rindex(b"\xff\xda")
    return put_in(draw, parts, segments()) + base[at:last] + often(draw, lambda _: base[last:-2]) + base[-2:]


@files
def extensions(draw: Draw) -> bytes:
    """Draw an extension or an image of a GIF, once or often."""
    start = b"!" + draw(st.sampled_from((b"\xfe", b"\xff", b"\xf9", b"\x01", b"\xff\x0bNETSCAPE2.0")))
    if draw(st.booleans()):
        places = [draw(st.sampled_from((0, 0, 65_535))), 0, draw(sides) % 65_536, draw(sides) % 65_536]
        flags = draw(st.sampled_from((0, 64, 135, 199)))
        start = b"," + struct.pack("<HHHHB", *places, flags) + bytes(768 * (flags > 64) + 1)
        start = start[:-1] + bytes([draw(st.integers(0, 13))])
    content, size = draw(filler()), draw(st.sampled_from((1, 4, 255)))
    pieces = (content[at : at + size] for at in range(0, len(content), size))
    body = b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"
    return often(draw, lambda _: start + body)


@files
def gifs(draw: Draw) -> bytes:
    """Draw a GIF."""
    base = draw(bases("GIF", "1 L P RGB", "save_all", True))
    at = 13 + 3 * (2 << (base[10] & 7)) * (base[10] > 127)
    return put_in(draw, [base[:at], base[at:]], extensions())


@files
def bmps(draw: Draw) -> bytes:
    """Draw a BMP: a real one, or one with any header, whose pixels may be escapes of run-length encoding."""
    if draw(st.sampled_from((False, False, True))):
        return draw(bases("BMP", "1 L P RGB RGBA"))
    size, bits = draw(st.sampled_from((12, 40, 40, 64, 124))), draw(st.sampled_from((1, 4, 8, 8, 16, 24, 32)))
    width, height, way = draw(sides), draw(sides | st.just(-20)), draw(st.sampled_from((0, 1, 1, 2, 3)))
    escape = st.tuples(st.sampled_from((0, 0, 1, 255)), st.integers(0, 4), *[st.integers(0, 255)] * 2)
    pixels = draw(filler())
    for _ in range(draw(st.integers(0, 3))):
        part = bytes(draw(escape))[: draw(st.sampled_from((2, 4)))]
        pixels = often(draw, lambda _, part=part: part) + pixels
    more = (len(pixels), 0, 0, draw(numbers), 0)
    header = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, way, *more)
    if size == 12:
        header = struct.pack("<IHHHH", 12, width % 65_536, height % 65_536, 1, bits)
    header = header.ljust(size, b"\xff") + bytes(range(256)) * 4
    return b"BM" + struct.pack("<IHHI", 14 + len(header + pixels), 0, 0, 14 + len(header)) + header + pixels


@files
def riffs(draw: Draw) -> bytes:
    """Draw a chunk of a WebP, once or often."""
    name = draw(st.sampled_from((b"EXIF", b"ICCP", b"XMP ", b"VP8X", b"ANIM", b"ALPH", b"VP8 ", b"prVt")))
    content = draw(exifs() if name == b"EXIF" else filler())
    chunk = name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return often(draw, lambda _: chunk)


@files
def webps(draw: Draw) -> bytes:
    """Draw a WebP, in most cases with the chunk that announces others."""
    parts = split(draw(bases("WEBP", "L RGB RGBA", "lossless", True)), 12, "<4xI", 0, 2)
    if draw(st.sampled_from((True, True, False))) and parts[1][:4] != b"VP8X":
        width = draw(st.sampled_from((59, 59, 59, 16_382)))
        announced = struct.pack("<IIHBHB", 10, draw(st.sampled_from((0, 12, 44))), width, 0, 19, 0)
        parts.insert(1, b"VP8X" + announced)
    content = put_in(draw, parts, riffs(), 2)
    return content[:4] + struct.pack("<I", max(len(content) - 8, 0)) + content[8:]


@files
def tiffs(draw: Draw) -> bytes:
    """Draw a TIFF: a real one with another directory at its end, or one whose pixels are all in one block."""
    if draw(st.booleans()):
        ways = ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "zstd", "lzma")
        base = draw(bases("TIFF", "1 L P RGB RGBA CMYK I F I;16", "compression", *ways))
        (at,) = struct.unpack_from("<I", base, 4)
        (count,) = struct.unpack_from("<H", base, at)
        entries = list(struct.iter_unpack("<HHII", base[at + 2 : at + 2 + 12 * count]))
        return head("<", "I", len(base)) + base[8:] + draw(directories(entries, "<", "I", len(base)))
    order, word = draw(st.sampled_from("<>")), draw(st.sampled_from("IIQ"))
    at, pixels = 16 if word == "Q" else 8, draw(filler() | squeezed())
    parts, is_tiled = draw(st.sampled_from((1, 1, 1, 2, 300, 10_000))), draw(st.booleans())
    arrays = struct.pack(f"{order}{2 * parts}I", *[at] * parts, *[len(pixels)] * parts)
    places = (at, len(pixels)) if parts == 1 else (at + len(pixels), at + len(pixels) + 4 * parts)
    bits, way = draw(st.sampled_from((1, 8, 8, 16, 32))), draw(st.sampled_from((1, 8, 8, 1, 5, 32773, 4, 7)))
    entries = [(256, 4, 1, draw(sides)), (257, 4, 1, draw(sides)), (258, 3, 1, bits), (259, 3, 1, way)]
    entries += [(262, 3, 1, draw(st.integers(0, 3))), (322 if is_tiled else 278, 4, 1, draw(sides))]
    tags = (324, 325) if is_tiled else (273, 279)
    entries += [(tag, 4, parts, place) for tag, place in zip(tags, places, strict=True)]
    entries += [(323, 4, 1, draw(sides))] * is_tiled
    end = at + len(pixels + arrays)
    return head(order, word, end) + pixels + arrays + draw(directories(entries, order, word, end))


def objects() -> st.SearchStrategy[object]:
    """Draw arrays of any shape and type, Pillow images of any mode, and what is no image at all."""
    size = st.tuples(*[st.sampled_from((0, 1, 7, 200))] * 2)
    images = st.builds(Image.new, st.sampled_from(Image.MODES), size)
    types = st.just(np.dtype("uint8")) | st.just(np.dtype(object)) | scalar_dtypes()
    arrays = st.builds(np.zeros, array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=40), types)
    things = [None, 1, 1.5, "", "\0", "a" * 5000, "/dev/null", "/dev/zero", ".", [], {}, object(), open, b""]
    things += [bytearray(b"x"), memoryview(b"x"), io.StringIO("text"), np.float32(1), range(3), Path("x")]
    return images | arrays | st.sampled_from(things)


pickles = st.builds(pickle.dumps, st.just({"a": 1, "\u00e4": 2}), st.integers(0, 5))
opcodes = st.sampled_from(b"} ] ( h\0 R . ctime\nsleep\nR X\xff\xff\xff\x7f".split(b" "))
words = b'filename|label|a.png|a.png,a\n|{"filename": "a.png", "label": "a"}|"|\n|\r\n|,|;|\t|\0|\xff'
words = [*words.split(b"|"), b"x" * 200_000, b"[" * 3000, "\u00fc".encode("utf-16")]
lists = st.lists(st.sampled_from(words), max_size=20).map(lambda parts: bytearray().join(parts))
KINDS = {  # how many inputs, and what draws them
    "png": (17_000, damaged(pngs())),
    "jpeg": (17_000, damaged(jpegs())),
    "gif": (16_000, damaged(gifs())),
    "bmp": (16_000, damaged(bmps())),
    "webp": (17_000, damaged(webps())),
    "tiff": (17_000, damaged(tiffs())),
    "object": (3000, objects()),
    "pickle": (5000, damaged(st.builds(bytes.__add__, opcodes, pickles) | pickles)),
    "csv": (4000, lists),
    "jsonl": (4000, lists),
}


def reader(kind: str) -> tuple[Callable[[Any], object], set[str]]:
    """Return what reads an input of a kind, and its documented errors."""
    if kind in ("csv", "jsonl"):
        from training.lists import read_list

        return lambda path: read_list(path, lambda name: name == "a.png"), {"ListError", "ValueError"}
    from ocr import Recognizer, _load_pickle

    if kind == "pickle":
        return _load_pickle, {"ModelError"}
    recognizer = Recognizer()
    recognizer.read(next((runs.ROOT / "demo_app" / "Examples").iterdir()))
    return recognizer.read, {"ImageError"}


def memory(field: str) -> float:
    """Read a field of the process's memory, in megabytes."""
    return int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0]) * 1024 / 1e6


def outcome(read: Callable[[Any], object], errors: set[str], thing: object) -> str:
    """Read an input and name what came out: read, refused, or what may not come out."""
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow's, of the damage
            read(thing)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001, what is looked for
        words, name = str(error), type(error).__name__
        is_sentence = words.endswith(".") and words.isprintable() and "()." not in words and len(words) < 1000
        is_clear = (words.count(" ") > 4 and is_sentence) or "ValueError" in errors
        is_fine = name in errors and is_clear and "Memory" not in words
        return "refused" if is_fine else f"{name}: {words[:300]}"
    return "read"


def throw(kind: str, count: int) -> dict[str, Any]:
    """Throw inputs of a kind at what reads them; return how they ended and the most that one of them took."""
    (read, errors), path = reader(kind), FOLDER / f"input.{kind}"
    signal.signal(signal.SIGVTALRM, signal.default_int_handler)  # which ends what takes `HANGS`
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD: what an input frees must not hide what the next one takes
    resource.setrlimit(resource.RLIMIT_AS, (int(memory("VmSize") * 1e6) + ADDRESSES,) * 2)
    row = {"inputs": 0, "read": 0, "refused": 0, "outside": 0, "seconds": 0.0, "megabytes": 0.0}

    def measure_once(source: object) -> tuple[str, float, float]:
        libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
        signal.setitimer(signal.ITIMER_VIRTUAL, HANGS)
        faulthandler.dump_traceback_later(STUCK, exit=True)  # nothing else ends a loop in C
        before, started, used = memory("VmRSS"), time.perf_counter(), time.process_time()
        end = outcome(read, errors, source)
        seconds = min(time.perf_counter() - started, time.process_time() - used)  # without what others took
        megabytes = memory("VmHWM") - before
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        faulthandler.cancel_dump_traceback_later()
        return end, seconds, megabytes

    def measure(thing: object) -> None:
        if is_file := kind != "object":
            path.write_bytes(thing)
        source = path if is_file else thing
        end, seconds, megabytes = measure_once(source)
        if seconds > SECONDS:  # a busy machine slows the processor, too
            end, seconds, megabytes = measure_once(source)
        is_inside = end in ("read", "refused") and seconds <= SECONDS and megabytes <= MEGABYTES
        row["inputs"] += 1
        row[end if is_inside else "outside"] += 1
        row["seconds"], row["megabytes"] = max(row["seconds"], seconds), max(row["megabytes"], megabytes)
        size = len(thing) if is_file else 0
        if not is_inside and size < row.get("smallest", {"bytes": SIZE + 1})["bytes"]:
            row["smallest"] = {"bytes": size, "end": end, "seconds": seconds, "megabytes": megabytes}
            path.with_suffix(f".found.{kind}").write_bytes(thing if is_file else repr(thing).encode())
        target(seconds, label="seconds")
        target(megabytes, label="megabytes")

    options = {"database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
    for number, (phases, share) in enumerate((([Phase.generate], 1), ([Phase.generate, Phase.target], 50))):
        test = settings(max_examples=count // share, phases=phases, **options)(given(KINDS[kind][1])(measure))
        seed(number)(test)()
    return row


def main() -> None:
    """Throw all kinds and write; or one kind, as a process of its own does each time, for it may die."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    configuration.set_hypothesis_home_dir(FOLDER)
    if len(sys.argv) > 1:
        kind, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else KINDS[sys.argv[1]][0]
        return print(json.dumps(throw(kind, count)))
    rows, started = {}, time.perf_counter()
    for kind in KINDS:
        done = subprocess.run([sys.executable, __file__, kind], stdout=subprocess.PIPE, text=True)
        rows[kind] = json.loads(done.stdout) if done.returncode == 0 else {"died": done.returncode}
        print(kind, rows[kind], flush=True)
    runs.write("fuzz", {"kinds": rows, "minutes": round((time.perf_counter() - started) / 60, 1)})


if __name__ == "__main__":
    main()

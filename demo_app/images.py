"""Open images of every kind that people have, with a limit on what a file may cost."""

import contextlib
import io
import math
import os
import re
import stat
import struct
import time
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".gif", ".bmp", ".webp", ".tif", ".tiff")
MAX_BYTES = 200_000_000  # of a file
MAX_PIXELS = 25_000_000  # a photograph; with 4 bytes a pixel while it is decoded, 8 in a progressive JPEG
MAX_SIDE = 65_535  # pixels; Pillow holds an address for each row, and a row is converted at once
HUNGRY = ("WEBP", "TIFF")  # whose decoders hold 16 bytes a pixel; so does CMYK
MAX_HUNGRY_PIXELS = 13_000_000
MAX_SCANS_PIXELS = 1_000_000_000  # of a JPEG, which may go over its pixels again and again, a ms each
SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")  # how a layer of a JPEG begins
MAX_PARTS = 100_000  # of a file: its chunks or segments, its strips and their sizes, its reads
MAX_BLOCKS = 1_000_000  # of a GIF, of up to 255 bytes
SMALL_BYTES = 100_000  # of a file that opens in no time
MAX_SECONDS = 1.5  # of the processor's time, to open an image
STRIP_PIXELS = 1_000_000  # to convert at a time
MAX_FRAME_PIXELS = 1_000_000  # of an animation whose blank frames are passed over
MAX_FRAMES = 30
MIN_CONTRAST = 2  # standard deviation of pixels, 0 to 127.5, below which an image is blank
LIGHT = 200  # grey level from which on a letter is not seen on white
MOST_INK, NEARLY_ALL = 0.7, 0.95  # shares: of an image that is letters, of these that is light

# The parts of PNG, WebP and JPEG that an image is shown by; all others are metadata.
PIXELS = {b"IDAT", b"VP8 ", b"VP8L", b"ANMF", b"\xda"}
ANIMATION = {b"acTL", b"fcTL", b"fdAT"}
FRAMES = {bytes([marker]) for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC)}
KEPT = PIXELS | ANIMATION | FRAMES | {b"IHDR", b"PLTE", b"tRNS", b"IEND", b"VP8X", b"ALPH", b"ANIM"}
KEPT |= {b"\xc4", b"\xcc", b"\xdb", b"\xdc", b"\xdd", b"\xe0", b"\xee"}
SEGMENT = re.compile(rb"\xff([\xc0-\xc7\xc9-\xcf\xda-\xef\xfe])(..)", re.DOTALL)
PROFILE = b"Raw profile type exif\0"  # how ImageMagick puts EXIF into a PNG
XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")

# The tags of a TIFF that an image is shown by, and what they may hold.
SIDES, TILE_SIDES, OFFSETS, BYTE_COUNTS, ORIENTATION = (256, 257), (322, 323), (273, 324), (279, 325), 274
TAGS = {*SIDES, *TILE_SIDES, *OFFSETS, *BYTE_COUNTS, 258, 259, 262, 266, 277, 278, 284, 292, 293, 317, 320}
TAGS |= {338, 339, 347, 529, 530, 531, 532}
TYPES = {3: "H", 4: "I", 5: "Q", 7: "B", 16: "Q"}

ImageSource = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray


class ImageError(ValueError):
    """An image that can't be read; the message says what is wrong and what to do."""


class _LimitedFile:
    """A file that gives up when an image is made of very many small parts, or takes long to decode."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self.seek, self.tell = self._file.seek, self._file.tell
        self._reads, self._end = 0, time.thread_time() + MAX_SECONDS

    def read(self, size: int = -1) -> bytes:
        self._reads += 1
        if self._reads > MAX_PARTS or time.thread_time() > self._end:
            raise _too_long()
        return self._file.read(size)


class _Tag(NamedTuple):
    """An entry of a directory of a TIFF or of EXIF."""

    raw: bytes
    count: int
    code: str  # of one of its values, for struct
    place: int  # of the first

    def values(self, content: bytes) -> tuple[int, ...]:
        """Read up to `MAX_PARTS` values, at least one: a 0 where they lie behind the end."""
        form = f"{self.code[0]}{min(self.count, MAX_PARTS)}{self.code[1]}"
        is_inside = self.count and self.place + struct.calcsize(form) <= len(content)
        return struct.unpack_from(form, content, self.place) if is_inside else (0,)


def _read(source: str | os.PathLike[str] | BinaryIO) -> bytes:
    size = 0
    with contextlib.ExitStack() as stack:
        if not hasattr(source, "read"):
            if "\0" in os.fspath(source):
                raise ImageError("A path can't hold a NUL character. Give the path of an image.")
            status = Path(source).stat()
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # pipes may never end
                raise ImageError(f"{source} is not a file. Give the path of an image.")
            source, size = stack.enter_context(Path(source).open("rb")), status.st_size
        elif getattr(source, "seekable", lambda: False)():
            source.seek(0)
        content = b"" if size > MAX_BYTES else source.read(MAX_BYTES + 1)
    if max(size, len(content)) > MAX_BYTES:
        raise ImageError(f"The file has more than {MAX_BYTES:,} bytes. Scale the image down.")
    return content


def _strip(content: bytes) -> tuple[bytes, int]:
    """Leave out of a file what its image is not shown by: Pillow unpacks all of it, without a limit.

    Returns:
        The file without metadata and further pages.
        The orientation by EXIF, or else by XMP: 1 to 8.

    Raises:
        ImageError: If there are too many parts, or none with pixels.
    """
    if content.startswith(b"GIF8"):
        return _strip_gif(content), 1
    is_png, is_webp = content.startswith(b"\x89PNG\r\n\x1a\n"), content[:4] + content[8:12] == b"RIFFWEBP"
    if content.startswith((b"II", b"MM")):
        return _strip_tiff(content), _orientation(content, content)
    if is_png or is_webp:
        parts = _chunks(content, is_png)
    elif content.startswith(b"\xff\xd8\xff"):
        parts = _segments(content)
    else:
        return content, 1
    kept, exif, has_pixels = [], [], False
    for number, (name, start, body, end) in enumerate(parts):
        if number == MAX_PARTS:
            raise _too_long()
        if name in KEPT and not (kept and name == b"IHDR"):  # a second one would change the size
            kept.append(memoryview(content)[start:end])
            has_pixels |= name in PIXELS
        elif name in (b"eXIf", b"EXIF") or content.startswith(b"Exif\0\0", body):
            exif.append(content[body:end].removeprefix(b"Exif\0\0"))
        elif name in (b"tEXt", b"zTXt") and content.startswith(PROFILE, body) and not exif:
            text = content[body + len(PROFILE) : min(end - 4, body + SMALL_BYTES)]
            exif.append(_unpack_profile(text, name == b"zTXt"))
    if not has_pixels:
        raise ImageError("The image is damaged (it ends before its pixels). Save or export it again.")
    head = content[: 8 if is_png else 2]
    if is_webp:
        head = b"RIFF" + struct.pack("<I", 4 + sum(map(len, kept))) + b"WEBP"
    return b"".join([head, *kept]), _orientation(b"".join(exif), content)


def _strip_gif(content: bytes) -> bytes:
    """End a GIF before a later frame that goes beyond its edges, for which Pillow would make room.

    And before an extension whose end Pillow does not see, so that it takes other frames than are looked at.
    """
    frames, blocks, at = 0, 0, 13
    with contextlib.suppress(struct.error, IndexError):  # after the end
        *canvas, flags = struct.unpack_from("<HHB", content, 6)
        at += _table_bytes(flags)
        for _ in range(MAX_PARTS):
            kind = content[at : at + 1]
            if kind == b",":
                left, top, width, height, flags = struct.unpack_from("<4HB", content, at + 1)
                if frames and (left + width > canvas[0] or top + height > canvas[1]):
                    return content[:at] + b";"
                frames += 1
                at += 11 + _table_bytes(flags)
            elif kind in (b";", b""):
                return content
            elif kind == b"!":
                loop = content[at + 1] == 0xFF and content.startswith(b"NETSCAPE2.0", at + 3)
                first = at + 2 + (1 + content[at + 2] if loop else 0)
                if content[at + 1] != 0xFE and not content[first]:
                    return content[:at] + b";"
                at += 2
            else:  # Pillow passes over such bytes, too
                at += 1
                continue
            while content[at] and blocks < MAX_BLOCKS:
                at += 1 + content[at]
                blocks += 1
            if blocks == MAX_BLOCKS:
                break
            at += 1
        raise _too_long()
    return content


def _table_bytes(flags: int) -> int:
    return 6 << (flags & 7) if flags & 128 else 0


def _chunks(content: bytes, is_png: bool) -> Iterator[tuple[bytes, int, int, int]]:
    """Give the parts of a PNG or WebP: name, where it begins, where what it holds begins, where it ends."""
    at, name = 8 if is_png else 12, b""
    while at + 8 <= len(content) and name != b"IEND":
        if is_png:
            size, name = struct.unpack_from(">I4s", content, at)
            size += 4  # its checksum
        else:
            name, size = struct.unpack_from("<4sI", content, at)
            size += size % 2
        yield name, at, at + 8, at + 8 + size
        at += 8 + size


def _segments(content: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Give the parts of a JPEG in the same way; the last one holds the pixels."""
    at = 2
    while found := SEGMENT.search(content, at):
        start, body = found.span()
        at = len(content) if found[1] == b"\xda" else start + 2 + max(2, int.from_bytes(found[2], "big"))
        if found[1] not in FRAMES or at - body <= 6 + 3 * 4:  # of 4 colours; Pillow would list thousands
            yield found[1], start, body, at


def _unpack_profile(text: bytes, is_compressed: bool) -> bytes:
    with contextlib.suppress(ValueError, zlib.error):
        if is_compressed:
            text = zlib.decompressobj().decompress(text[1:], SMALL_BYTES)
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode()).removeprefix(b"Exif\0\0")
    return b""


def _packing(content: bytes) -> tuple[str, str, int]:
    """Return how a TIFF or EXIF packs a directory's length, and counts and places; and the size of these."""
    order = "<" if content.startswith(b"II") else ">"
    is_big = content[2:3] == b"+"  # a BigTIFF, by what Pillow goes by
    return (order + "Q", order + "Q", 8) if is_big else (order + "H", order + "I", 4)


def _read_directory(content: bytes) -> dict[int, _Tag]:
    """Read the first directory of a TIFF or of EXIF, as far as it goes."""
    number, word, room = _packing(content)
    entry = struct.Struct(f"{word[0]}HH{word[1]}{room}x")
    directory = {}
    with contextlib.suppress(struct.error, OverflowError):
        (start,) = struct.unpack_from(word, content, room)
        (length,) = struct.unpack_from(number, content, start)
        if length > MAX_PARTS:
            raise _too_many(length)
        start += struct.calcsize(number)
        for at in range(start, start + length * entry.size, entry.size):
            tag, kind, count = entry.unpack_from(content, at)
            if kind in TYPES:
                code, place = word[0] + TYPES[kind], at + entry.size - room
                if count * struct.calcsize(code) > room:
                    (place,) = struct.unpack_from(word, content, place)
                directory[tag] = _Tag(content[at : at + entry.size], count, code, place)
    return directory


def _orientation(exif: bytes, content: bytes) -> int:
    directory = _read_directory(exif)
    if ORIENTATION in directory:
        return directory[ORIENTATION].values(exif)[0]
    found = XMP.match(content, max(0, content.find(b"tiff:Orientation")))
    return int(found[1]) if found else 1


def _strip_tiff(content: bytes) -> bytes:
    """Let a TIFF begin with a directory at its end: that of its first page, with `TAGS` alone."""
    directory = {tag: entry for tag, entry in _read_directory(content).items() if tag in TAGS}
    parts = sum(entry.count for entry in directory.values())
    if parts > MAX_PARTS:
        raise _too_many(parts)
    values = {tag: entry.values(content) for tag, entry in directory.items()}
    area = 1  # with the parts of tiles that lie outside, for they are decoded, too
    for side, tile_side in zip(SIDES, TILE_SIDES, strict=True):
        tile = max(1, values.get(tile_side, (1,))[0])
        area *= math.ceil(values.get(side, (1,))[0] / tile) * tile
    if area > MAX_HUNGRY_PIXELS:
        raise _too_large(MAX_HUNGRY_PIXELS)
    sizes = [size for tag in BYTE_COUNTS for size in values.get(tag, ())]
    sizes = sizes or [len(content)] * max(len(values.get(tag, ())) for tag in OFFSETS)
    if sum(min(size, len(content)) for size in sizes) > 2 * len(content):
        raise ImageError("The image's parts lie over each other. Save or export it again.")
    number, word, room = _packing(content)
    entries = b"".join(entry.raw for entry in directory.values())
    end = len(content) + len(content) % 2
    parts = [
        content[:room],
        struct.pack(word, end),
        memoryview(content)[2 * room :],
        bytes(end - len(content)),
    ]
    return b"".join([*parts, struct.pack(number, len(directory)), entries, bytes(room)])


def open_image(source: ImageSource, channels: int = 1) -> np.ndarray:
    """Open an image as pixels, with its EXIF rotation applied.

    What is transparent becomes white, or black where all that is seen is nearly white. An animation
    gives its first frame that is not blank.

    Args:
        source: Path, encoded bytes, binary file object, Pillow image, or uint8 array of shape
            (height, width), (height, width, 1), (height, width, 3) RGB or (height, width, 4) RGBA.
        channels: 1 for grey, 3 for RGB.

    Returns:
        uint8 (height, width, channels).

    Raises:
        ImageError: If the source is not a readable image of at most `MAX_PIXELS` pixels, or
            `MAX_HUNGRY_PIXELS` in WebP, TIFF or CMYK, or takes more than `MAX_SECONDS` to open.
    """
    if isinstance(source, np.ndarray):
        source = _image_from_array(source)
    try:
        if isinstance(source, Image.Image):
            return _pixels(source, channels)
        if not isinstance(source, bytes | str | os.PathLike) and not hasattr(source, "read"):
            raise ImageError(
                f"A {type(source).__name__} is not an image. Give a path, bytes, an open file, "
                "a Pillow image or a uint8 array."
            )
        content, orientation = _strip(source if isinstance(source, bytes) else _read(source))
        with Image.open(_LimitedFile(content), formats=FORMATS) as image:
            return _pixels(image, channels, orientation)
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(f"There is no file {source}. Check its path.") from error
    except IsADirectoryError as error:
        raise ImageError(f"{source} is a folder. Give the path of an image in it.") from error
    except PermissionError as error:
        raise ImageError(f"{source} is not readable. Check its permissions.") from error
    except Image.UnidentifiedImageError as error:
        kind = (
            "HEIC or AVIF, which is not read" if content[4:8] == b"ftyp" else "not an image that can be read"
        )
        raise ImageError(f"This file is {kind}. Save it as PNG, JPEG, GIF, BMP, WebP or TIFF.") from error
    except Image.DecompressionBombError as error:
        raise _too_large(MAX_PIXELS) from error
    except Exception as error:
        if getattr(error, "errno", None):  # the system's; Pillow's own errors of this kind have none
            raise ImageError(f"The file can't be read ({error.strerror}). Check its path.") from error
        detail = str(error) or type(error).__name__
        raise ImageError(f"The image is damaged ({detail}). Save or export it again.") from error


def _image_from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(
            f"A {array.dtype} array of shape {array.shape} is not an image. "
            "Give uint8 of shape (height, width) or (height, width, 1, 3 or 4)."
        )
    if array.size == 0:
        raise ImageError("The array has no pixels. Give an image of at least 1x1.")
    return Image.fromarray(array)


def _pixels(image: Image.Image, channels: int, orientation: int | None = None) -> np.ndarray:
    """Turn an image into pixels; one that `open_image` opened has an orientation, and may be changed."""
    is_own = orientation is not None
    if not image.width * image.height:
        raise ImageError("The image has no pixels. Give one of at least 1x1.")
    if max(image.size) > MAX_SIDE:
        raise ImageError(f"The image has a side of more than {MAX_SIDE:,} pixels. Cut out the text.")
    is_hungry = image.format in HUNGRY or image.mode == "CMYK"
    limit = MAX_HUNGRY_PIXELS if is_hungry else MAX_PIXELS
    if image.width * image.height > limit:
        raise _too_large(limit)
    if any(tile.codec_name == "bmp_rle" for tile in getattr(image, "tile", ())):
        raise ImageError("Run-length encoded BMPs are not supported. Save it as a PNG.")
    if is_own and image.format == "JPEG":
        image.fp.seek(0)
        scans = sum(len(SCAN.findall(part)) for part in iter(partial(image.fp.read, 1 << 20), b""))
        if scans * image.width * image.height > MAX_SCANS_PIXELS:
            raise ImageError(f"The image is stored in {scans:,} layers. Save or export it again.")
    if is_own and channels == 1:
        image.draft("L", None)  # a JPEG holds the grey image by itself
    if is_own:
        image.getexif()[ORIENTATION] = orientation
    image = ImageOps.exif_transpose(image, in_place=is_own) or image
    pixels = _convert(image, channels)
    if is_own and orientation == 1 and pixels.size <= channels * MAX_FRAME_PIXELS:
        end = time.thread_time() + MAX_SECONDS / 3
        with contextlib.suppress(EOFError):  # after the last frame
            for number in range(1, MAX_FRAMES * getattr(image, "is_animated", False)):
                if pixels.std(axis=(0, 1)).max() >= MIN_CONTRAST or time.thread_time() > end:
                    break
                image.seek(number)
                pixels = _convert(image, channels)
    return pixels


def _convert(image: Image.Image, channels: int) -> np.ndarray:
    is_deep, paper = image.mode.startswith(("I", "F")), None
    if is_deep:  # 16 and 32 bits: Pillow's own conversion clips them
        bounds = [(v.min(), v.max()) for v in (_deep_values(strip) for _, strip in _strips(image))]
        low, high = np.min(bounds), np.max(bounds)
    pixels = np.empty((image.height, image.width, channels), np.uint8)
    for top, strip in _strips(image):
        if is_deep:
            values = (_deep_values(strip) - low) * (255 / max(high - low, 1e-9))
            strip = Image.fromarray(values.astype(np.uint8))
        elif image.has_transparency_data:
            strip = strip.convert("RGBA")
            if strip.getchannel("A").getextrema()[0] < 255:  # or there is nothing to lay on paper
                paper = paper or _choose_paper(image)
                strip = Image.alpha_composite(Image.new("RGBA", strip.size, paper), strip)
        values = np.asarray(strip.convert("L" if channels == 1 else "RGB"))
        pixels[top : top + len(values)] = values.reshape(*values.shape[:2], channels)
    return pixels


def _choose_paper(image: Image.Image) -> str:
    """Choose the colour on which what is not transparent is seen."""
    seen = light = 0
    for _, strip in _strips(image):
        strip = strip.convert("RGBA")
        alpha = np.asarray(strip.getchannel("A"), np.float32) / 255
        seen += alpha.sum()
        light += alpha[np.asarray(strip.convert("L")) > LIGHT].sum()
    is_ink = 0 < seen < MOST_INK * image.width * image.height
    return "black" if is_ink and light > NEARLY_ALL * seen else "white"


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Give parts of the image from top to bottom, with their tops: copies of the whole fill the memory."""
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        end = min(top + rows, image.height)
        yield top, image if end - top == image.height else image.crop((0, top, image.width, end))


def _deep_values(strip: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(strip)).astype(np.float64)


def _too_large(limit: int) -> ImageError:
    return ImageError(f"The image has more than {limit:,} pixels. Cut out the text or scale it down.")


def _too_long() -> ImageError:
    return ImageError("The image takes too long to open. Scale it down, or save or export it again.")


def _too_many(parts: int) -> ImageError:
    return ImageError(f"The image is stored in {parts:,} parts. Save or export it again.")


def has_two_lines(pixels: np.ndarray) -> bool:
    """Tell whether ink lies in two bands, one above the other, with hardly any between them.

    Args:
        pixels: uint8 (height, width, channels).
    """
    height, width, _ = pixels.shape
    inner = pixels[height // 12 : height - height // 12, width // 12 : width - width // 12]  # without a frame
    some = inner[:: max(1, height // 200), :: max(1, width // 400)]
    ink = some.std(axis=1, dtype=np.float32).max(axis=1)  # of each row
    ink -= 0.8 * ink.min()
    much = np.quantile(ink, 0.9)
    edge = len(ink) * 3 // 10
    cut = edge + int(ink[edge : len(ink) - edge].argmin())
    bands = [np.count_nonzero(band > much / 2) / len(ink) for band in (ink[:cut], ink[cut:])]
    return bool(much > 5 and ink[cut] < 0.15 * much and min(bands) > 0.18)

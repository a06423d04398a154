"""Throw bad input at everything that reads files: `python benchmarks/fuzz.py` writes `fuzz.json`, on Linux.

Each input must end in a result or in one of the documented errors with a sentence, within `SECONDS` and
`GROWTH`. What is found can be made again from its target and number: `python benchmarks/fuzz.py read 123`.
"""

import contextlib
import ctypes
import faulthandler
import io
import json
import pickle
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import runs
from PIL import Image, ImageCms
from tqdm import tqdm

sys.path.insert(0, str(runs.ROOT / "demo_app"))
import ocr

SEED = 0
SECONDS, GROWTH = 2, 300_000_000  # of one input; bytes of memory
COUNTS = {
    "read": 40_000,
    "objects": 3_000,
    "read_batch": 5_000,
    "pickle": 15_000,
    "list": 15_000,
    "command": 300,
}
EXAMPLES = sorted((runs.ROOT / "demo_app" / "Examples").iterdir())
NUMBERS = (0, 1, 2, 255, 65_535, 100_000, 2**31 - 1, 2**32 - 1)


def encode(image: Image.Image, form: str, **options: Any) -> bytes:  # noqa: ANN401, Pillow's
    """Encode an image."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def make_corpus() -> dict[str, bytes]:
    """Make real files of each format: modes, depths, compressions, frames, pages, metadata."""
    with Image.open(EXAMPLES[0]) as example:
        image = example.convert("RGB").resize((60, 20))
    rotation = Image.Exif()
    rotation[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    several = {"save_all": True, "append_images": [image.rotate(90 * turn) for turn in range(1, 4)]}
    meta = {"exif": rotation, "icc_profile": profile}
    corpus = {f"example {path.suffix}": path.read_bytes() for path in EXAMPLES[:1]}
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        corpus[f"PNG {mode}"] = encode(image.convert(mode), "PNG")
    corpus["PNG palette with alpha"] = encode(image.convert("P"), "PNG", transparency=3)
    corpus["PNG 16"] = encode(deep, "PNG")
    corpus["PNG meta"] = encode(image, "PNG", **meta)
    corpus["PNG frames"] = encode(image, "PNG", **several)
    for mode in ("L", "RGB", "CMYK"):
        corpus[f"JPEG {mode}"] = encode(image.convert(mode), "JPEG")
        corpus[f"JPEG {mode} progressive"] = encode(image.convert(mode), "JPEG", progressive=True)
    corpus["JPEG meta"] = encode(image, "JPEG", **meta)
    corpus["GIF"] = encode(image, "GIF")
    corpus["GIF frames"] = encode(image, "GIF", **several)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        corpus[f"BMP {mode}"] = encode(image.convert(mode), "BMP")
    corpus["WEBP"] = encode(image, "WEBP")
    corpus["WEBP lossless"] = encode(image.convert("RGBA"), "WEBP", lossless=True)
    corpus["WEBP meta"] = encode(image, "WEBP", **meta)
    corpus["WEBP frames"] = encode(image, "WEBP", **several)
    for compression in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        corpus[f"TIFF {compression}"] = encode(image, "TIFF", compression=compression)
    for mode in ("1", "L", "P", "RGBA", "CMYK", "I", "F"):
        corpus[f"TIFF {mode}"] = encode(image.convert(mode), "TIFF")
    corpus["TIFF 16"] = encode(deep, "TIFF")
    corpus["TIFF group4"] = encode(image.convert("1"), "TIFF", compression="group4")
    corpus["TIFF pages"] = encode(image, "TIFF", **several)
    return corpus


CORPUS = make_corpus()
NAMES = list(CORPUS)


def mutate(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Change bytes of a file at random, in one to four ways."""
    content = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        size = len(content)
        if size < 8:
            break
        reach = size if rng.random() < 0.5 else min(size, 200)  # headers matter most
        at, length = int(rng.integers(reach)), int(rng.integers(1, 1 + min(64, size)))
        kind = rng.integers(7)
        if kind == 0:
            content[at] = rng.integers(256)
        elif kind == 1:
            content[at] ^= 1 << rng.integers(8)
        elif kind == 2:
            number = int(rng.choice(NUMBERS)) % 2 ** (8 * (width := int(rng.choice([2, 4]))))
            content[at : at + width] = number.to_bytes(width, rng.choice(["big", "little"]))
        elif kind == 3:
            del content[at : at + length]
        elif kind == 4:
            content[at:at] = content[at : at + length] * int(rng.integers(1, 20))
        elif kind == 5:
            start = int(rng.integers(len(other)))
            content[at:at] = other[start : start + length]
        else:
            del content[at:]
    return bytes(content)


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Split a PNG into the names and contents of its chunks."""
    found, at = [], 8
    while at + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += size + 12
    return found


def chunk(name: bytes, content: bytes) -> bytes:
    """Make a chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(parts: list[tuple[bytes, bytes]]) -> bytes:
    """Put a PNG together."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def damaged_image(rng: np.random.Generator) -> tuple[str, bytes]:
    """Draw a file of the corpus and damage it, a PNG now and then inside its checksums."""
    name, other = rng.choice(NAMES, 2)
    data = CORPUS[name]
    if name.startswith("PNG") and rng.random() < 0.5:
        parts = chunks_of(data)
        at = int(rng.integers(len(parts)))
        kind, content = parts[at]
        change = rng.integers(3)
        if change == 0:
            parts[at] = (kind, mutate(content, CORPUS[other], rng))
        elif change == 1:
            parts.insert(int(rng.integers(len(parts))), (kind, content))
        else:
            del parts[at]
        return f"chunks of {name}", png(parts)
    return f"damaged {name}", mutate(data, CORPUS[other], rng)


def bombs() -> dict[str, bytes]:
    """Make files of up to 20 MB that want much memory or time."""
    size = 20_000_000
    grey = Image.new("L", (200, 50), 200)
    plain = chunks_of(encode(grey, "PNG"))
    found = {}
    for width, height in ((100_000, 100_000), (2**31 - 1, 2**31 - 1), (0, 5), (30_000, 30_000)):
        header = struct.pack(">II", width, height) + plain[0][1][8:]
        found[f"PNG that claims {width}x{height}"] = png([(b"IHDR", header), *plain[1:]])
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1_250_001)) for _ in range(15)) + packer.flush()
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 1, 0, 0, 0, 0)
    found["PNG of 20 KB, 10 gigapixels"] = png([(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")])
    swelling = b"a\0\0" + zlib.compress(bytes(1 << 19))
    for name, content in {
        b"prVt": b"", b"tEXt": b"a\0b", b"iCCP": swelling, b"zTXt": swelling, b"pHYs": bytes(9),
        b"eXIf": b"MM\0*" + bytes(10_000), b"acTL": struct.pack(">II", 5, 0),
    }.items():  # fmt: skip
        for where, at in (("before", 1), ("after", len(plain) - 1)):
            parts = plain.copy()
            parts[at:at] = [(name, content)] * ((size - 10_000) // (12 + len(content)))
            found[f"PNG with {name.decode()} {where} its pixels, often"] = png(parts)
    found["PNG with one chunk of 19 MB"] = png(
        [plain[0], (b"iCCP", b"a\0\0" + bytes(19_000_000)), *plain[1:]]
    )
    jpeg = encode(grey, "JPEG")
    for name, part in {
        "comments": b"\xff\xfe\0\2", "APP5": b"\xff\xe5\0\2", "EXIF": b"\xff\xe1\0\x09Exif\0\0M",
        "profiles": b"\xff\xe2\0\x12ICC_PROFILE\0\1\1xx", "filling": b"\xff", "empty tables": b"\xff\xdb\0\2",
        "Photoshop": b"\xff\xed\0\x1cPhotoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0",
    }.items():  # fmt: skip
        found[f"JPEG with {name}, often"] = jpeg[:2] + part * (size // len(part) - 1000) + jpeg[2:]
    layered = encode(Image.new("RGB", (5000, 5000), "grey"), "JPEG", progressive=True, quality=1)
    last = layered[layered.rindex(b"\xff\xda") : -2]
    found["JPEG of 10,000 layers"] = layered[:-2] + last * 10_000 + layered[-2:]
    found["JPEG of 30 layers"] = layered[:-2] + last * 29 + layered[-2:]
    gif = encode(grey.convert("P"), "GIF")
    head = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
    for name, part in {
        "comments": b"\x21\xfe\1a\0", "long comments": b"\x21\xfe" + b"\1a" * 5000 + b"\0",
        "extensions": b"\x21\xff\0", "controls": b"\x21\xf9\4\0\0\0\0\0", "zeros": b"\0",
    }.items():  # fmt: skip
        found[f"GIF with {name}, often"] = gif[:head] + part * (size // len(part) - 1000) + gif[head:]
    rng = np.random.default_rng(SEED)
    frames = [Image.fromarray(rng.integers(0, 256, (5, 20)).astype(np.uint8)) for _ in range(3000)]
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        found[f"{form} of 3,000 frames"] = encode(frames[0], form, save_all=True, append_images=frames[1:])
    offsets = {
        256: 25,
        257: 1_000_000,
        258: 8,
        259: 1,
        262: 1,
        273: (8,) * 1_000_000,
        277: 1,
        278: 1,
        279: 25,
    }
    tags = [(tag, value if isinstance(value, tuple) else (value,)) for tag, value in offsets.items()]
    table, extra = struct.pack("<H", len(tags)), b""
    start = 8 + 2 + 12 * len(tags) + 4
    for tag, values in tags:
        inline = struct.pack("<I", values[0]) if len(values) == 1 else struct.pack("<I", start)
        table += struct.pack("<HHI", tag, 4, len(values)) + inline
        extra += b"" if len(values) == 1 else struct.pack(f"<{len(values)}I", *values)
    found["TIFF of a million strips"] = b"II*\0\x08\0\0\0" + table + bytes(4) + extra
    noise = Image.fromarray(rng.integers(0, 256, (500, 750, 3)).astype(np.uint8)).resize((6000, 4000))
    photo = {"JPEG": {}, "BMP": {}, "GIF": {}, "PNG": {"compress_level": 1}}
    for form, options in photo.items():
        found[f"{form} of 24 megapixels"] = encode(noise, form, **options)
    found["PNG of 24 megapixels, RGBA"] = encode(noise.convert("RGBA"), "PNG", compress_level=1)
    deep = np.asarray(noise.convert("L")).astype(np.uint16) * 257
    found["PNG of 24 megapixels, 16 bits"] = encode(Image.fromarray(deep), "PNG", compress_level=1)
    found["JPEG of 24 megapixels, progressive"] = encode(noise, "JPEG", progressive=True, subsampling=0)
    rotation = Image.Exif()
    rotation[0x0112] = 6
    found["JPEG of 24 megapixels, turned"] = encode(noise, "JPEG", exif=rotation)
    noise = noise.resize((4160, 3000))
    found["JPEG of 12 megapixels, CMYK"] = encode(
        noise.convert("CMYK"), "JPEG", progressive=True, subsampling=0
    )
    for mode in ("RGBA", "I", "F", "CMYK"):
        found[f"TIFF of 12 megapixels, {mode}"] = encode(
            noise.convert(mode), "TIFF", compression="tiff_deflate"
        )
    found["WEBP of 12 megapixels"] = encode(noise, "WEBP", method=0)
    found["WEBP of 12 megapixels, lossless"] = encode(noise.convert("RGBA"), "WEBP", lossless=True, method=0)
    found["WEBP of 16,383x16,383"] = encode(Image.new("L", (16_383, 16_383)), "WEBP", lossless=True, method=0)
    for width, height in ((1, 1), (1, 30_000), (30_000, 1), (1, 60_000), (65_000, 380), (380, 65_000)):
        for form in ("PNG", "JPEG", "BMP"):
            found[f"{form} of {width}x{height}"] = encode(Image.new("L", (width, height), 99), form)
    with io.BytesIO() as archive:
        with zipfile.ZipFile(archive, "w") as bundle:
            bundle.writestr("a.png", CORPUS["PNG L"])
        found["zip named .png"] = archive.getvalue()
    found["SVG named .png"] = b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg' width='9'/>"
    found["HTML named .png"] = b"<!doctype html><title>x</title>"
    found["EPS named .png"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    return found


def any_object(rng: np.random.Generator) -> tuple[str, object]:
    """Draw an array of any shape and dtype, a Pillow image of any mode or something that is no image."""
    kind = rng.integers(3)
    if kind == 0:
        shape = tuple(int(length) for length in rng.choice([0, 1, 2, 3, 4, 5, 40, 300], rng.integers(0, 5)))
        array = rng.integers(0, 256, shape)
        dtype = rng.choice(
            ["uint8", "uint8", "uint8", "int64", "float32", "bool", "object", "complex64", "U3"]
        )
        return f"{dtype} array {shape}", np.asarray(array).astype(dtype)
    if kind == 1:
        modes = [
            "1",
            "L",
            "LA",
            "La",
            "P",
            "PA",
            "RGB",
            "RGBX",
            "RGBA",
            "RGBa",
            "CMYK",
            "YCbCr",
            "LAB",
            "HSV",
        ]
        mode = str(rng.choice([*modes, "I", "F", "I;16", "I;16B", "I;16L"]))
        size = tuple(int(length) for length in rng.choice([0, 1, 7, 200], 2))
        return f"image {mode} {size}", Image.new(mode, size)
    things = [
        None,
        1,
        1.5,
        "",
        "\0",
        "a" * 5000,
        "/dev/null",
        "/proc/self/mem",
        ".",
        [],
        {},
        object(),
        Path("x"),
    ]
    things += [bytearray(b"x"), memoryview(b"x"), io.StringIO("text"), open, np.float32(1), b"", range(3)]
    position = int(rng.integers(len(things)))
    return f"thing {position}", things[position]


def any_list(rng: np.random.Generator) -> tuple[str, bytes]:
    """Draw a damaged list of labels and the name of its kind."""
    suffix = str(rng.choice(["csv", "tsv", "jsonl"]))
    rows = [
        ("filename", "label"),
        ("a.png", "ab"),
        ('b "1".png', "c,d"),
        ("ü.png", "ß\U0001f600"),
        ("c.png", ""),
    ]
    if suffix == "jsonl":
        lines = [json.dumps(dict(zip(rows[0], row, strict=True))) for row in rows[1:]]
        lines += ["[" * int(rng.integers(3000)), '{"filename": 1, "label": null}'][: rng.integers(3)]
    else:
        separator = "\t" if suffix == "tsv" else str(rng.choice([",", ";"]))
        lines = [separator.join(f'"{cell}"' if "," in cell else cell for cell in row) for row in rows]
        lines += [f"d.png{separator}{'x' * int(rng.integers(200_000))}"][: rng.integers(2)]
    encoding = str(rng.choice(["utf-8", "utf-8-sig", "utf-16", "latin-1"], p=[0.7, 0.1, 0.1, 0.1]))
    data = str(rng.choice(["\n", "\r\n", "\r"])).join(lines).encode(encoding, "replace")
    return suffix, mutate(
        data, b'"\0\n\r\t,;{}[]\xff\\u0000\\ud800' * 4, rng
    ) if rng.random() < 0.95 else data


def any_pickle(rng: np.random.Generator) -> tuple[str, bytes]:
    """Draw a damaged pickle."""
    name = str(rng.choice(["char_to_num", "num_to_char"]))
    protocol = int(rng.integers(6))
    mapping = pickle.loads((runs.ROOT / "demo_app" / name).read_bytes())  # noqa: S301, our own
    opcodes = b"}]()Ka\x85\x86\x94h\x00r\xff\xff\xff\x7fctime\nsleep\nR\x8c\x02abX\xff\xff\xff\xffI9\n\x93.s2"
    return f"protocol {protocol}", mutate(pickle.dumps(mapping, protocol), opcodes, rng)


def memory(field: str) -> int:
    """Read a field of the process's memory, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{field}:")[2].split()[0])


def give_back() -> None:
    """Give free memory back to the system, where it would hide growth."""
    ctypes.CDLL(None).malloc_trim(0)


class Fuzzer:
    """Runs inputs and keeps what came out, how long each took and how much memory it wanted."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter] = defaultdict(Counter)
        self.findings: list[dict[str, Any]] = []
        self.extremes: list[dict[str, Any]] = []

    def run(self, target: str, case: str, work: Callable[[], object]) -> None:
        """Run one input; its time is the processor's where others had the processor meanwhile."""
        if target == "bombs":
            give_back()
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
        before, started, used = memory("VmRSS"), time.perf_counter(), time.process_time()
        outcome = self.outcome(work)
        seconds = min(time.perf_counter() - started, time.process_time() - used)
        growth = memory("VmHWM") - before
        self.outcomes[target][outcome.partition(":")[0]] += 1
        row = {"target": target, "case": case, "seconds": round(seconds, 3), "growth": growth}
        if ":" in outcome or seconds > SECONDS or growth > GROWTH:
            self.findings.append(row | {"outcome": outcome.partition(":")[0]})
            tqdm.write(f"{row} {outcome}")
        self.extremes.append(row)
        if len(self.extremes) > 1000:
            self.trim()

    def outcome(self, work: Callable[[], object]) -> str:
        """Run and name the outcome; with a colon where it is not allowed."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, of the damage
                work()
        except (ocr.ImageError, ocr.ModelError, sys.modules["study"].DatasetError) as error:
            words = str(error)
            is_clear = (
                words.endswith(".") and words.isprintable() and "()." not in words and words.count(" ") > 4
            )
            name = type(error).__name__
            return name if is_clear and len(words) < 1000 else f"unclear {name}: {words[:500]!r}"
        except Exception as error:  # noqa: BLE001, what is looked for
            return f"another exception: {error!r}"[:500]
        return "result"

    def trim(self) -> None:
        """Keep only the slowest input and the one that wanted the most memory."""
        self.extremes = [max(self.extremes, key=lambda row: row[name]) for name in ("seconds", "growth")]


def command_line(folder: Path, rng: np.random.Generator) -> None:
    """Read a folder of damaged files with the command line; another end than 0, 1 or 2 is an error."""
    for number in range(int(rng.integers(6))):
        name = rng.choice(["a b", "ü", "\udcff", "-x", "x" * 200]) + f"{number}{rng.choice(ocr.SUFFIXES)}"
        (folder / name).write_bytes(damaged_image(rng)[1])
    choices = [str(folder), str(folder / "nothing.png"), "/dev/null", str(EXAMPLES[0]), "--csv", "--what", ""]
    arguments = [str(word) for word in rng.choice(choices, rng.integers(1, 4))]
    if rng.random() < 0.5:
        arguments += ["--csv", str(rng.choice([str(folder / "out.csv"), str(folder), "/nowhere/out.csv"]))]
    sys.argv = ["ocr.py", *arguments]
    streams = [io.TextIOWrapper(io.BytesIO()) for _ in range(2)]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            code = ocr.main()
        except SystemExit as end:
            code = end.code
    streams[1].seek(0)
    if code not in (0, 1, 2) or "Traceback" in streams[1].read():
        raise RuntimeError(f"{arguments} ended with {code}")


def main() -> None:
    """Run all inputs, or one of a target, and write."""
    faulthandler.enable()
    fuzzer, study, recognizer = Fuzzer(), runs.definitions(), ocr.Recognizer()
    recognizer.read_batch(EXAMPLES)
    ocr.Recognizer = lambda: recognizer  # for the command line: loading takes a second
    only = (sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 2 else None
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def run(target: str, number: int) -> None:
            rng = np.random.default_rng([SEED, sorted(COUNTS).index(target), number])
            if target == "read":
                case, data = damaged_image(rng)
                work = lambda: recognizer.read(data)  # noqa: E731
            elif target == "objects":
                case, thing = any_object(rng)
                work = lambda: recognizer.read(thing)  # noqa: E731
            elif target == "read_batch":
                good, bad = (
                    EXAMPLES[: rng.integers(4)],
                    [damaged_image(rng)[1] for _ in range(rng.integers(4))],
                )
                case, work = (
                    "mixed",
                    lambda: recognizer.read_batch(rng.permutation(np.array([*good, *bad], object))),
                )
            elif target == "pickle":
                case, data = any_pickle(rng)
                (folder / "pickle").write_bytes(data)
                work = lambda: ocr._load_pickle(folder / "pickle")  # noqa: E731
            elif target == "list":
                case, data = any_list(rng)
                (folder / f"labels.{case}").write_bytes(data)
                work = lambda: study.read_list(folder / f"labels.{case}")  # noqa: E731
            else:
                images = Path(tempfile.mkdtemp(dir=folder))
                case, work = "in this process", lambda: command_line(images, rng)
            fuzzer.run(target, f"{case}, number {number}", work)

        if only:
            run(*only)
            return
        for case, data in bombs().items():
            fuzzer.run("bombs", case, lambda data=data: recognizer.read(data))
        give_back()
        first = memory("VmRSS")
        for case, data in tqdm(CORPUS.items(), desc="truncations"):
            for end in range(len(data)):
                fuzzer.run("truncations", f"{case} at {end}", lambda data=data[:end]: recognizer.read(data))
        for target, count in COUNTS.items():
            for number in tqdm(range(count), desc=target, miniters=count // 100, maxinterval=60):
                run(target, number)
        for number in range(3):
            (folder / f"{number}.png").write_bytes(damaged_image(np.random.default_rng(number))[1])
        command = [sys.executable, str(runs.ROOT / "demo_app" / "ocr.py"), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        fuzzer.outcomes["command"]["result"] += 1
        assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    give_back()
    fuzzer.trim()
    slowest, largest = fuzzer.extremes
    content = {
        "inputs": sum(sum(counts.values()) for counts in fuzzer.outcomes.values()),
        "outcomes": fuzzer.outcomes,
        "not_allowed": len(fuzzer.findings),
        "findings": fuzzer.findings[:20],
        "slowest": slowest,
        "largest": largest,
        "growth_after_bombs": memory("VmRSS") - first,
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    runs.write("fuzz", content)
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()

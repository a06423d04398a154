"""Read short text out of images with the network that `study.ipynb` exported into this folder.

In Python: `Recognizer().read("image.png").text`.
In a terminal: `python ocr.py PATH... [--csv out.csv]`.
"""

import argparse
import copy
import csv
import hashlib
import json
import os
import pickle
import pickletools
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from decoding import BLANK, align, are_usual, decode, probability, search, to_text
from folders import NotLookedAt, describe_kinds, find_images, open_path
from formats import Format, FormatError
from images import SUFFIXES, ImageError, ImageSource, open_image
from network import ModelError, Shape, lay_side_by_side, load_network
from tqdm import tqdm

VERSION = "1.0.0"  # of CustomOCR
COLUMNS = ["file", "text", "confidence", "sure", "error"]
MAX_PICKLE_BYTES = 1_000_000
# The opcodes of a pickled dict of texts and small numbers. None of them imports, calls, repeats or nests.
PLAIN_OPCODES = set("\x80\x95}(\x8cXKMJ\x94su.")
MANIFEST = Path("ocr_model", "assets.extra", "manifest.json")  # sizes and hashes of the other files
NUMBER = int | float
# What `assets.extra/about.json` must say.
ABOUT = {
    "dataset": str,
    "date": str,
    "alphabet": str,
    "lengths": [int, int],  # of the shortest and of the longest training label, in characters
    "shape": {"height": int, "width": int, "channels": int, "stretch": NUMBER, "lines": int},
    "split": {"train": int, "validation": int, "test": int},  # images
    "split_by": str,
    "threshold": NUMBER | None,  # confidence from which readings are marked as sure; None: never
    "start_from": str | None,
    "exact_match": NUMBER,  # share of the test images that were read without a mistake
    "exact_match_interval": [NUMBER, NUMBER],
    "cer": NUMBER,
}
BAD = 0.5  # a model with a smaller exact match reads badly
LEAST = 0.05  # probability among all texts that one which fits a format needs to be sure
BATCH = 64  # images per call of the network, or fewer
AHEAD = 128  # images to open before those of one size go to the network together
MAX_SLOW = 3  # images of one call, for which a pattern may take too long
MANY_SLOW = "The pattern takes too long for several images. Use fewer repetitions."
BATCH_PIXELS = 16_000_000  # so that large images don't fill the memory
FEW_PIXELS = 4_000_000  # of the images that are read while the next ones are opened


@dataclass(frozen=True)
class Character:
    """One character of a reading.

    Attributes:
        text: The character.
        confidence: Its highest softmax probability in the frames that gave it, 0 to 1; among the characters
            of the alphabet, if there was one.
        left: First column of those frames in the image as it was given, in pixels.
        right: Column after the last one, in pixels.
        line: Line of text: 0, or 1 for the lower of two.
    """

    text: str
    confidence: float
    left: float
    right: float
    line: int = 0


@dataclass(frozen=True)
class Reading:
    """What the network reads in one image.

    Attributes:
        text: The best text, see `decode`; empty where the network sees none.
        confidence: Calibrated probability of that whole text, 0 to 1; among those that fit a format, if
            there was one.
        sure: Whether the text is as long as training labels were, and the confidence reaches the model's
            threshold: from it on, at least 99.9% of the readings of changed validation images were right.
        characters: The characters of `text`, from left to right.
        frames: float32 (frames, classes), softmax outputs from left to right; class 0 is the blank.
        fits: Whether the text fits the format that was asked for.
    """

    text: str
    confidence: float
    sure: bool
    characters: tuple[Character, ...]
    frames: np.ndarray = field(repr=False, compare=False)
    fits: bool = True


def describe_files(folder: Path) -> dict[str, dict[str, int | str]]:
    """Describe the exported files in a folder, as `MANIFEST` in it does: by their size and SHA-256.

    Args:
        folder: Holds `ocr_model`, `char_to_num` and `num_to_char`.

    Returns:
        "bytes" and "sha256" by each file's path below the folder, with forward slashes. The manifest itself
        and hidden files, which a desktop may leave there, are left out.

    Raises:
        OSError: If a file can't be read.
    """
    found = {}
    names = ("char_to_num", "num_to_char", "ocr_model.onnx")
    for path in sorted([*map(folder.joinpath, names), *(folder / "ocr_model").rglob("*")]):
        name = path.relative_to(folder).as_posix()
        is_hidden = any(part.startswith(".") for part in name.split("/")) or path.name == "desktop.ini"
        if path.is_file() and path != folder / MANIFEST and not is_hidden:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[name] = {"bytes": path.stat().st_size, "sha256": digest}
    return found


def _check_files(folder: Path) -> dict[str, dict[str, int | str]]:
    try:
        if not (folder / MANIFEST).is_file():  # a pipe might never end
            raise FileNotFoundError("it is not a file")
        expected = dict(json.loads((folder / MANIFEST).read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(
            f"{folder / MANIFEST} is missing or damaged ({error}). Export or copy the model again."
        ) from error
    found = describe_files(folder)
    for name in sorted({*expected, *found}):
        if found.get(name) != expected.get(name):
            fault = (
                "is missing"
                if name not in found
                else "does not belong to this export"
                if name not in expected
                else "has changed since it was exported"
            )
            raise ModelError(f"{folder / name} {fault}. Export or copy the model again.")
    return found


def _load_pickle(path: Path) -> dict[str, int] | dict[int, str]:
    with path.open("rb") as file:
        data = file.read(MAX_PICKLE_BYTES + 1)
    if len(data) > MAX_PICKLE_BYTES:
        raise ModelError(f"{path} is larger than {MAX_PICKLE_BYTES:,} bytes. Export the model again.")
    try:
        opcodes = [opcode.code for opcode, _, _ in pickletools.genops(data)]
        if opcodes.count("}") != 1 or not PLAIN_OPCODES.issuperset(opcodes):
            raise ValueError("it is not a single dictionary of characters and numbers")
        return dict(pickle.loads(data))  # noqa: S301, its opcodes were looked at
    except Exception as error:
        raise ModelError(f"{path} can't be loaded ({str(error)[:100]}). Export the model again.") from error


def _load_about(path: Path) -> dict:
    about = json.loads(path.read_text(encoding="utf-8"))
    wrong = [name for name, kind in ABOUT.items() if not _fits(about, {name: kind})]
    if wrong:
        raise ModelError(f"{path} has no valid {', '.join(wrong)}. Export the model again.")
    return about


def _fits(value: object, kind: object) -> bool:
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(n in value and _fits(value[n], k) for n, k in kind.items())
    if isinstance(kind, list):
        return isinstance(value, list) and len(value) == len(kind) and all(map(_fits, value, kind))
    return isinstance(value, kind)


class Recognizer:
    """Reads images with an exported model; safe to share between threads.

    Args:
        folder: Holds `ocr_model`, `char_to_num` and `num_to_char`, and may hold `ocr_model.onnx`.
        runtime: "tensorflow" or "onnx"; None takes what the environment variable `RUNTIME` says, else
            TensorFlow where it is installed.
        lines: Of text in each image. A model for one line then reads two, laid side by side.

    Raises:
        ModelError: If a file is missing or not as `MANIFEST` says, or they are not of one export, or
            `about.json` does not say all of `ABOUT`.

    Attributes:
        folder: Where the model really lies: `new_export` in that folder while an export is swapped in.
        shape: Of the network's input.
        channels: Of the images that the network takes: 1 for grey, 3 for RGB.
        frame_edges: `Shape.frame_edges`, with what it computed last.
        about: What the notebook wrote about the model, see `ABOUT`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] = Path(__file__).parent,
        runtime: str | None = None,
        lines: int = 1,
    ) -> None:
        self.folder = Path(folder)
        if (self.folder / "new_export").is_dir():  # an export that is being swapped in: whole and newer
            self.folder /= "new_export"
        try:
            files = _check_files(self.folder)
            self._num_to_char = _load_pickle(self.folder / "num_to_char")
            char_to_num = _load_pickle(self.folder / "char_to_num")
            agree = {number: text for text, number in char_to_num.items()} == self._num_to_char
            if not agree or not all(isinstance(text, str) for text in char_to_num):
                raise ModelError(
                    f"char_to_num and num_to_char in {self.folder} don't belong together. "
                    "Export the model again."
                )
            self.about = _load_about(self.folder / "ocr_model" / "assets.extra" / "about.json")
            self.shape = Shape(**self.about["shape"])
            self.channels = self.shape.channels
            self._serve = network = load_network(self.folder, self.shape, runtime)
            if lines > self.shape.lines:
                self.shape = self.shape._replace(lines=lines)
                self._serve = lambda images: network(lay_side_by_side(images))
            # The first call is slow, so it is made here.
            classes = self._serve(np.full([1, 40, 120, self.channels], 255, np.uint8)).shape[-1]
            if describe_files(self.folder) != files:
                raise ModelError(f"The model in {self.folder} was replaced while it was loaded. Start again.")
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"The model in {self.folder} can't be loaded ({error}). Export it again."
            ) from error
        self.frame_edges = lru_cache(self.shape.frame_edges)
        if set(range(1, classes)) != set(self._num_to_char):
            raise ModelError(
                f"The {classes} classes of ocr_model in {self.folder} do not match the blank and the "
                f"{len(char_to_num)} characters of char_to_num. Export the model again."
            )

    @property
    def reads_badly(self) -> bool:
        """Whether the model misread most of its own test images."""
        return self.about["exact_match"] < BAD

    def read(self, image: ImageSource, form: Format | None = None) -> Reading:
        """Read one image.

        Args:
            image: See `open_image`.
            form: The known format. The best text that fits is read; if there is none, the best of the
                alphabet. The reading is not sure if fitting texts are improbable.

        Raises:
            ImageError: If it can't be opened, see `open_image`.
            FormatError: If the pattern takes too long.
        """
        reading = self._read_opened([open_image(image, self.channels)], form)[0]
        if isinstance(reading, ImageError):
            raise FormatError(str(reading))
        return reading

    def read_batch(self, images: Iterable[ImageSource]) -> list[Reading]:
        """Read many images, of any sizes, in their order.

        Raises:
            ImageError: If one can't be opened; the message starts with its position, from 0.
        """
        readings = []
        for position, reading in enumerate(self.read_each(images)):
            if isinstance(reading, ImageError):
                raise ImageError(f"Image {position}: {reading}") from reading
            readings.append(reading)
        return readings

    def read_each(
        self, images: Iterable[ImageSource | ImageError], form: Format | None = None
    ) -> Iterator[Reading | ImageError]:
        """Read many images, of any sizes, in their order; an error among them is passed on.

        A thread opens the next ones while some are read. The format is that of `read`.

        Yields:
            A reading, or the error where an image can't be opened or its texts take the pattern too long.

        Raises:
            FormatError: If the pattern takes too long for many of them.
        """
        form = copy.copy(form)  # which counts
        some = self._open_some(images)
        with ThreadPoolExecutor(1) as opener:  # not for the network: TensorFlow keeps memory for each thread
            results = next(some)
            while results is not None:
                pixels = sum(r.size for r in results if isinstance(r, np.ndarray))
                ahead = len(results) == AHEAD and pixels <= FEW_PIXELS  # with fewer, none are left
                following = opener.submit(next, some, None) if ahead else None  # or both fill memory
                yield from self._read_some(results, form)
                results = following.result() if following else next(some, None)

    def _open_some(
        self, images: Iterable[ImageSource | ImageError]
    ) -> Iterator[list[np.ndarray | ImageError]]:
        results, pixels = [], 0
        for image in images:
            try:
                if isinstance(image, ImageError):
                    raise image
                results.append(open_image(image, self.channels))
                pixels += results[-1].size
            except ImageError as error:
                results.append(error)
            if len(results) == AHEAD or pixels > BATCH_PIXELS:
                yield results
                results, pixels = [], 0
        yield results

    def _read_some(
        self, results: list[np.ndarray | ImageError], form: Format | None
    ) -> list[Reading | ImageError]:
        images = [image for image in results if isinstance(image, np.ndarray)]
        readings = iter(self._read_opened(images, form))
        return [result if isinstance(result, ImageError) else next(readings) for result in results]

    def alternatives(self, reading: Reading, count: int = 3) -> list[tuple[str, float]]:
        """Find the most probable texts, of any length, for the frames of a reading.

        Returns:
            At most `BEAM_WIDTH` texts with their probabilities, 0 to 1, the most probable one first.
        """
        label_ids, probability = search(reading.frames)
        order = np.argsort(-probability)[:count]
        return [(self._text(label_ids[row]), float(probability[row])) for row in order]

    def name(self, number: int) -> str:
        """Return the character of a class, or "blank"."""
        return self._num_to_char.get(int(number), "blank")

    def _text(self, label_ids: Iterable[int]) -> str:
        return to_text(label_ids, self._num_to_char)

    def _read_opened(
        self, images: Sequence[np.ndarray], form: Format | None = None
    ) -> list[Reading | ImageError]:
        same_shape = defaultdict(list)  # the network takes images of one size at a time
        for position, image in enumerate(images):
            same_shape[image.shape].append(position)
        readings = {}
        for (height, width, _), positions in same_shape.items():
            edges = self.frame_edges(height, width)
            size = max(1, min(BATCH, BATCH_PIXELS // (height * width)))
            for start in range(0, len(positions), size):
                chunk = positions[start : start + size]
                frames = self._serve(np.stack([images[p] for p in chunk]))
                readings.update(zip(chunk, self._readings(frames, edges, width, form), strict=True))
        return [readings[position] for position in range(len(images))]

    def _readings(
        self, frames: np.ndarray, edges: np.ndarray, width: int, form: Format | None
    ) -> list[Reading | ImageError]:
        form, slow = form or Format(), {}
        kept, share = (frames, 1) if form.is_open else form.keep(frames, self._num_to_char)
        label_ids, confidences = decode(kept, self.about["lengths"])
        fits = np.full(len(frames), form.is_possible(self._num_to_char.values()))
        plain = share * confidences  # the probability among all texts
        if form.has_pattern:
            label_ids = np.pad(label_ids, [(0, 0), (0, frames.shape[1] - label_ids.shape[1])])
            for row, some in enumerate(kept):
                try:
                    found = form.read(some, self._num_to_char, self._text)
                except FormatError as error:
                    found, slow[row] = None, ImageError(str(error))
                    form.slow += 1
                    if form.slow > MAX_SLOW:
                        raise FormatError(MANY_SLOW) from error
                if found:
                    best, confidences[row] = found
                    label_ids[row] = BLANK
                    label_ids[row, : len(best)] = best
                else:
                    fits[row] = False
            label_ids = label_ids[:, : np.count_nonzero(label_ids != BLANK, axis=1).max(initial=0)]
            plain = share * probability(kept, label_ids)
        # Otherwise a format could make any reading sure.
        probable = form.is_open | (plain >= LEAST)
        usual = are_usual(label_ids, self.about["lengths"]) & fits & probable
        threshold = self.about["threshold"]
        readings = []
        for row, path in enumerate(align(kept, label_ids)):
            characters = []
            for position, number in enumerate(label_ids[row][label_ids[row] != BLANK]):
                (own,) = np.nonzero(path == position)
                left, right = edges[own[0]], edges[own[-1] + 1]
                # The columns of a second line go on where the first one ends.
                line = min(int(left // width), self.shape.lines - 1)
                characters.append(
                    Character(
                        text=self._num_to_char[int(number)],
                        confidence=float(kept[row, own, number].max()),
                        left=float(left - line * width),
                        right=float(min(right - line * width, width)),
                        line=line,
                    )
                )
            confidence = float(confidences[row])
            sure = bool(usual[row]) and threshold is not None and confidence >= threshold
            text = self._text(label_ids[row])
            reading = Reading(text, confidence, sure, tuple(characters), frames[row], bool(fits[row]))
            readings.append(slow.get(row, reading))
        return readings


def as_row(name: str, reading: Reading | ImageError) -> list[str]:
    """Make the row of a reading, or of why there is none, for a table with `COLUMNS`."""
    if isinstance(reading, ImageError):
        return [name, "", "", "", str(reading)]
    return [name, reading.text, f"{reading.confidence:.4f}", "yes" if reading.sure else "no", ""]


def as_record(name: str, reading: Reading | ImageError) -> dict[str, object]:
    """Make JSON's values of a reading, or of why there is none, with its characters from left to right."""
    if isinstance(reading, ImageError):
        return {"file": name, "text": None, "confidence": None, "sure": None, "error": str(reading)}
    return {
        "file": name,
        "text": reading.text,
        "confidence": reading.confidence,
        "sure": reading.sure,
        "fits": reading.fits,
        "characters": [asdict(character) for character in reading.characters],
        "error": None,
    }


def open_paths(paths: list[str]) -> Iterator[tuple[str, ImageSource | ImageError]]:
    """Give the images that the command line names, each with its name."""
    for path in paths:
        if path == "-":
            yield path, sys.stdin.buffer
            continue
        files, others = find_images(Path(path))
        if others:
            print(f"Skipped in {path}: {describe_kinds(others)}.", file=sys.stderr)
        for file in files:
            yield from open_path(file, str(file))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Read the text in images.")
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="image, folder, zip archive, or - for an image on standard input",
    )
    here = Path(__file__).parent
    parser.add_argument(
        "--model", type=Path, default=here, metavar="FOLDER", help="folder of the model (default: this)"
    )
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("--pattern", default="", metavar="REGEX", help="pattern for the whole text")
    parser.add_argument("--alphabet", default="", metavar="CHARACTERS", help="allowed characters")
    parser.add_argument("--json", action="store_true", help="write a line of JSON for each image")
    parser.add_argument("--csv", type=Path, metavar="FILE", help=f"also write {','.join(COLUMNS)}")
    return parser.parse_args()


def main() -> int:
    """Read the images named on the command line; return 1 if one could not be read, else 0."""
    arguments = parse_arguments()
    try:
        form = Format(arguments.pattern, arguments.alphabet)
        recognizer = Recognizer(arguments.model)
    except (FormatError, ModelError) as error:
        sys.exit(str(error))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # for names and texts that a terminal can't show
    names, failed = [], False

    def sources() -> Iterator[ImageSource | ImageError]:
        for name, source in open_paths(arguments.paths):
            names.append(name)
            yield source

    with ExitStack() as stack:
        if arguments.csv:
            options = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
            try:
                file = stack.enter_context(arguments.csv.open("w", **options))
            except OSError as error:
                print(f"{arguments.csv} can't be written: {error.strerror}.", file=sys.stderr)
                return 2
            rows = csv.writer(file, quoting=csv.QUOTE_ALL)
            rows.writerow(COLUMNS)
        # Without a bar where it would be in the way: beside one reading, or in a file.
        readings = tqdm(recognizer.read_each(sources(), form), unit="image", delay=1, disable=None)
        stack.enter_context(readings)
        try:
            for number, reading in enumerate(readings):
                row = as_row(names[number], reading)
                failed |= isinstance(reading, ImageError) and not isinstance(reading, NotLookedAt)
                if arguments.json:
                    tqdm.write(json.dumps(as_record(names[number], reading)), file=sys.stdout)
                elif isinstance(reading, ImageError):
                    tqdm.write(f"{names[number]}: {reading}", file=sys.stderr)
                else:
                    tqdm.write(f"{row[0]}\t{row[1]}\t{row[2]}\tsure: {row[3]}")
                if arguments.csv:
                    rows.writerow(row)
        except FormatError as error:  # its pattern takes too long
            sys.exit(str(error))
    if not names:
        print(f"There are no {', '.join(SUFFIXES)} files in {', '.join(arguments.paths)}.", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # after `| head`; at its end, Python would complain of the same again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:  # a full disk
        status = f"The readings can't be written: {error.strerror}."
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)

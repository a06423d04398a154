"""Read short text out of images with the network that `study.ipynb` exported into this folder.

In Python: `Recognizer().read("image.png").text`.
In a terminal: `python ocr.py FILE_OR_FOLDER... [--csv out.csv]`.
"""

import argparse
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
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow reads it while it is imported

import numpy as np
import tensorflow as tf
from decoding import BLANK, align, are_usual, decode_greedily, search, search_unsure
from images import SUFFIXES, ImageError, ImageSource, find_images, open_image
from tqdm import tqdm

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
    "split": {"train": int, "validation": int, "test": int},  # images
    "split_by": str,
    "threshold": NUMBER | None,  # confidence from which on readings are called sure; None: never
    "start_from": str | None,
    "exact_match": NUMBER,  # share of the test images that were read without a mistake
    "exact_match_interval": [NUMBER, NUMBER],
    "cer": NUMBER,
}
BAD = 0.5  # a model with a smaller exact match reads badly
BATCH = 64  # images per call of the network, or fewer
AHEAD = 128  # images to open before those of one size go to the network together
BATCH_PIXELS = 16_000_000  # so that large images don't fill the memory
FEW_PIXELS = 4_000_000  # of the images that are read while the next ones are opened
COLUMNS = ["file", "text", "confidence", "sure", "error"]


class ModelError(RuntimeError):
    """Exported files that are missing, damaged or don't belong together."""


@dataclass(frozen=True)
class Character:
    """One character of a reading.

    Attributes:
        text: The character.
        confidence: Its highest softmax probability in the frames that gave it, 0 to 1.
        left: First column of those frames in the image as it was given, in pixels.
        right: Column after the last one, in pixels.
    """

    text: str
    confidence: float
    left: float
    right: float


@dataclass(frozen=True)
class Reading:
    """What the network reads in one image.

    Attributes:
        text: The best text, see `decode`; empty where the network sees none.
        confidence: Calibrated probability of that whole text, 0 to 1.
        sure: Whether the text is as long as training labels were, and the confidence reaches the model's
            threshold: from it on, at least 99.9% of the readings of changed validation images were right.
        characters: The characters of `text`, in its order.
        frames: float32 (frames, classes), softmax outputs from left to right; class 0 is the blank.
    """

    text: str
    confidence: float
    sure: bool
    characters: tuple[Character, ...]
    frames: np.ndarray = field(repr=False, compare=False)


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
    for path in sorted([folder / "char_to_num", folder / "num_to_char", *(folder / "ocr_model").rglob("*")]):
        name = path.relative_to(folder).as_posix()
        is_hidden = any(part.startswith(".") for part in name.split("/")) or path.name == "desktop.ini"
        if path.is_file() and path != folder / MANIFEST and not is_hidden:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[name] = {"bytes": path.stat().st_size, "sha256": digest}
    return found


def _check_files(folder: Path) -> dict[str, dict[str, int | str]]:
    try:
        expected = dict(json.loads((folder / MANIFEST).read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(
            f"{folder / MANIFEST} is missing or damaged ({error}). Export the model again or copy it anew."
        ) from error
    found = describe_files(folder)
    for name in sorted({*expected, *found}):
        if found.get(name) != expected.get(name):
            fault = (
                "is missing"
                if name not in found
                else "does not belong to this export"
                if name not in expected
                else "is not as it was exported"
            )
            raise ModelError(f"{folder / name} {fault}. Export the model again or copy it anew.")
    return found


def _load_pickle(path: Path) -> dict[str, int] | dict[int, str]:
    with path.open("rb") as file:
        data = file.read(MAX_PICKLE_BYTES + 1)
    if len(data) > MAX_PICKLE_BYTES:
        raise ModelError(f"{path} is larger than {MAX_PICKLE_BYTES:,} bytes. Export the model again.")
    try:
        opcodes = [opcode.code for opcode, _, _ in pickletools.genops(data)]
        if opcodes.count("}") != 1 or not PLAIN_OPCODES.issuperset(opcodes):
            raise ValueError("it holds other things than one dictionary of characters and numbers")
        return dict(pickle.loads(data))  # noqa: S301, its opcodes were looked at
    except Exception as error:
        raise ModelError(f"{path} can't be loaded ({str(error)[:100]}). Export the model again.") from error


def _load_about(path: Path) -> dict:
    about = json.loads(path.read_text(encoding="utf-8"))
    wrong = [name for name, kind in ABOUT.items() if not _fits(about, {name: kind})]
    if wrong:
        raise ModelError(f"{path} does not say {', '.join(wrong)} as it should. Export the model again.")
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
        folder: Holds `ocr_model`, `char_to_num` and `num_to_char`.

    Raises:
        ModelError: If a file is missing or not as `MANIFEST` says, or they are not of one export, or
            `about.json` does not say all of `ABOUT`.

    Attributes:
        folder: Where the model really lies: `new_export` in that folder while an export is swapped in.
        channels: Of the images that the network takes: 1 for grey, 3 for RGB.
        about: What the notebook wrote about the model, see `ABOUT`.
    """

    def __init__(self, folder: str | os.PathLike[str] = Path(__file__).parent) -> None:
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
            self._model = tf.saved_model.load(self.folder / "ocr_model")
            (images,) = self._model.signatures["serve"].structured_input_signature[1].values()
            self.channels = images.shape[-1]
            # One graph from pixels to labels saves a third of the time that one image takes.
            serve = tf.function(self._serve_and_decode, input_signature=[images], autograph=False)
            self._serve = serve.get_concrete_function()
            # The first call is slow, so it is made here.
            classes = self._serve(tf.constant(255, tf.uint8, [1, 40, 120, self.channels]))[0].shape[-1]
            if describe_files(self.folder) != files:
                raise ModelError(
                    f"The model in {self.folder} was exchanged while it was loaded. Start again."
                )
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"The model in {self.folder} can't be loaded ({error}). Export it again."
            ) from error
        self._frame_edges = lru_cache(lambda height, width: self._model.columns(height, width).numpy())
        if set(range(1, classes)) != set(self._num_to_char):
            raise ModelError(
                f"ocr_model in {self.folder} has {classes} classes, which are not the blank and the "
                f"{len(char_to_num)} characters of char_to_num. Export the model again."
            )

    @property
    def reads_badly(self) -> bool:
        """Whether the model misread most of its own test images."""
        return self.about["exact_match"] < BAD

    def read(self, image: ImageSource) -> Reading:
        """Read one image.

        Raises:
            ImageError: If it can't be opened, see `open_image`.
        """
        return self._read_opened([open_image(image, self.channels)])[0]

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

    def read_each(self, images: Iterable[ImageSource | ImageError]) -> Iterator[Reading | ImageError]:
        """Read many images, of any sizes, in their order; an error among them is passed on.

        A thread reads some of them while the next ones are opened.

        Yields:
            A reading, or the error where an image can't be opened.
        """
        with ThreadPoolExecutor(1) as network:
            waiting = network.submit(list)
            for results in self._open_some(images):
                readings = network.submit(self._read_some, results)
                yield from waiting.result()
                waiting = readings
                if sum(result.size for result in results if isinstance(result, np.ndarray)) > FEW_PIXELS:
                    waiting.result()  # or it would be in the memory while the next ones are opened
            yield from waiting.result()

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

    def _read_some(self, results: list[np.ndarray | ImageError]) -> list[Reading | ImageError]:
        readings = iter(self._read_opened([image for image in results if isinstance(image, np.ndarray)]))
        return [result if isinstance(result, ImageError) else next(readings) for result in results]

    def alternatives(self, reading: Reading, count: int = 3) -> list[tuple[str, float]]:
        """Find the most probable texts, of any length, for the frames of a reading.

        Returns:
            At most `BEAM_WIDTH` texts with their probabilities, 0 to 1, the most probable one first.
        """
        (label_ids,), (probability,) = search(reading.frames[np.newaxis])
        order = np.argsort(-probability)[:count]
        return [(self._text(label_ids[row]), float(probability[row])) for row in order]

    def frame_edges(self, height: int, width: int) -> np.ndarray:
        """Return the columns, in pixels, at which frames begin and end in an image: float32 (frames + 1,)."""
        return self._frame_edges(height, width)

    def name(self, number: int) -> str:
        """Return the character of a class, or "blank"."""
        return self._num_to_char.get(int(number), "blank")

    def _text(self, label_ids: np.ndarray) -> str:
        return "".join(self._num_to_char[int(number)] for number in label_ids if number != BLANK)

    def _read_opened(self, images: Sequence[np.ndarray]) -> list[Reading]:
        same_shape = defaultdict(list)  # the network takes images of one size at a time
        for position, image in enumerate(images):
            same_shape[image.shape].append(position)
        readings = {}
        for (height, width, _), positions in same_shape.items():
            edges = self.frame_edges(height, width)
            size = max(1, min(BATCH, BATCH_PIXELS // (height * width)))
            for start in range(0, len(positions), size):
                chunk = positions[start : start + size]
                batch = tf.constant(np.stack([images[p] for p in chunk]))
                outputs = [tensor.numpy() for tensor in self._serve(batch)]
                readings.update(zip(chunk, self._readings(*outputs, edges), strict=True))
        return [readings[position] for position in range(len(images))]

    def _serve_and_decode(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        frames = self._model.serve(images)
        return frames, *decode_greedily(frames)

    def _readings(
        self, frames: np.ndarray, label_ids: np.ndarray, confidences: np.ndarray, edges: np.ndarray
    ) -> list[Reading]:
        label_ids, confidences = search_unsure(frames, label_ids, confidences, self.about["lengths"])
        usual = are_usual(label_ids, self.about["lengths"])
        threshold = self.about["threshold"]
        readings = []
        for row, path in enumerate(align(frames, label_ids)):
            characters = []
            for position, number in enumerate(label_ids[row][label_ids[row] != BLANK]):
                (own,) = np.nonzero(path == position)
                characters.append(
                    Character(
                        text=self._num_to_char[int(number)],
                        confidence=float(frames[row, own, number].max()),
                        left=float(edges[own[0]]),
                        right=float(edges[own[-1] + 1]),
                    )
                )
            confidence = float(confidences[row])
            sure = bool(usual[row]) and threshold is not None and confidence >= threshold
            text = self._text(label_ids[row])
            readings.append(Reading(text, confidence, sure, tuple(characters), frames[row]))
        return readings


def as_row(name: str, reading: Reading | ImageError) -> list[str]:
    """Make the row of a reading, or of why there is none, for a table with `COLUMNS`."""
    if isinstance(reading, ImageError):
        return [name, "", "", "", str(reading)]
    return [name, reading.text, f"{reading.confidence:.4f}", "yes" if reading.sure else "no", ""]


def main() -> int:
    """Read the images named on the command line; return 1 if one could not be read, else 0."""
    parser = argparse.ArgumentParser(description="Read the text in images.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE_OR_FOLDER")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write file,text,confidence,sure,error")
    arguments = parser.parse_args()
    files = [file for path in arguments.paths for file in find_images(path)]
    if not files:
        parser.error(f"no {', '.join(SUFFIXES)} files in {', '.join(map(str, arguments.paths))}")
    try:
        recognizer = Recognizer()
    except ModelError as error:
        parser.exit(1, f"{error}\n")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # for names and texts that a terminal can't show
    failed = False
    with ExitStack() as stack:
        rows = None
        if arguments.csv:
            try:
                options = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
                file = stack.enter_context(arguments.csv.open("w", **options))
                rows = csv.writer(file, quoting=csv.QUOTE_ALL)
            except OSError as error:
                parser.error(f"{arguments.csv} can't be written: {error.strerror}")
            rows.writerow(COLUMNS)
        pairs = zip(files, recognizer.read_each(files), strict=True)
        for file, reading in stack.enter_context(tqdm(pairs, total=len(files), unit="image")):
            row = as_row(str(file), reading)
            if isinstance(reading, ImageError):
                failed = True
                tqdm.write(f"{file}: {reading}", file=sys.stderr)
            else:
                tqdm.write(f"{file}\t{row[1]}\t{row[2]}\tsure: {row[3]}")
            if rows:
                rows.writerow(row)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Read short text out of images with the network that `study.ipynb` exported into this folder.

In Python: `Recognizer().read("image.png").text`.
In a terminal: `python ocr.py FILE_OR_FOLDER... [--csv out.csv]`.
"""

import argparse
import csv
import io
import os
import pickle
import struct
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow reads it while it is imported

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps
from tqdm import tqdm

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")
MAX_PIXELS = 50_000_000  # a photograph of 50 megapixels takes about 200 MB while it is decoded
MAX_PICKLE_BYTES = 1_000_000
BATCH = 64  # images per call of the network
BEAM_WIDTH = 16
BLANK = 0  # the class for "no character here"; characters start at 1

ImageSource = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray


class ImageError(ValueError):
    """An image that can't be read; the message says what is wrong and what to do."""


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
        text: The most probable text; empty where the network sees none.
        confidence: Calibrated probability of that whole text, 0 to 1.
        characters: The characters of `text`, in its order.
        frames: float32 (frames, classes), softmax outputs from left to right; class 0 is the blank.
    """

    text: str
    confidence: float
    characters: tuple[Character, ...]
    frames: np.ndarray = field(repr=False, compare=False)


def open_image(source: ImageSource) -> np.ndarray:
    """Open an image as grey pixels: EXIF rotation applied, alpha laid on white, first frame only.

    Args:
        source: Path, encoded bytes, binary file object, Pillow image, or uint8 array of shape
            (height, width), (height, width, 1), (height, width, 3) RGB or (height, width, 4) RGBA.

    Returns:
        uint8 (height, width, 1).

    Raises:
        ImageError: If the source is not a readable image of at most `MAX_PIXELS` pixels.
    """
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    elif isinstance(source, np.ndarray):
        source = _image_from_array(source)
    elif not isinstance(source, str | os.PathLike | Image.Image) and not hasattr(source, "read"):
        raise ImageError(
            f"A {type(source).__name__} is not an image. Give a path, bytes, an open file, "
            "a Pillow image or a uint8 array."
        )
    try:
        is_open = isinstance(source, Image.Image)
        with nullcontext(source) if is_open else Image.open(source, formats=FORMATS) as image:
            return _grey(image)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"There is no file {source}. Check its path.") from error
    except IsADirectoryError as error:
        raise ImageError(f"{source} is a folder. Give the path of an image in it.") from error
    except PermissionError as error:
        raise ImageError(f"{source} may not be read. Check its permissions.") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            "This file is not an image that can be read. Use PNG, JPEG, GIF, BMP, WebP or TIFF."
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large() from error
    # Pillow's decoders raise all of these on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise ImageError(f"The image is damaged ({error}). Save or export it again.") from error


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


def _grey(image: Image.Image) -> np.ndarray:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # 16 and 32 bits: Pillow's own conversion clips them
        values = np.nan_to_num(np.asarray(image, np.float64))
        values -= values.min()
        image = Image.fromarray((values * (255 / max(values.max(), 1e-9))).astype(np.uint8))
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("L"))[:, :, np.newaxis]


def _too_large() -> ImageError:
    return ImageError(f"The image has more than {MAX_PIXELS:,} pixels. Cut out the text or scale it down.")


def decode(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the most probable label sequence of each image by CTC beam search.

    Hannun et al., "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional
    Recurrent DNNs", 2014, as in `tf.nn.ctc_beam_search_decoder`.

    Args:
        frames: float32 (batch, frames, classes), softmax outputs, class 0 the blank.

    Returns:
        labels: int64 (batch, longest), padded with `BLANK`.
        confidence: float32 (batch,), probability of the sequence, 0 to 1.
    """
    logits = np.log(np.maximum(frames, 1e-12))
    paths, log_probability = tf.nn.ctc_beam_search_decoder(
        np.roll(logits, -1, axis=2).swapaxes(0, 1),  # it wants time first and the blank last
        np.full(frames.shape[0], frames.shape[1], np.int32),
        beam_width=BEAM_WIDTH,
    )
    labels = tf.sparse.to_dense(paths[0], default_value=-1).numpy() + 1
    return labels, np.exp(log_probability[:, 0])


def align(frames: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Find the most probable CTC alignment of label sequences with their frames (Viterbi).

    Args:
        frames: float32 (batch, frames, classes), softmax outputs, class 0 the blank.
        labels: int64 (batch, longest), padded with `BLANK`; each fits into the frames.

    Returns:
        int64 (batch, frames): which label, counted from 0, each frame gives; -1 where blank.
    """
    batch, count, _ = frames.shape
    # Graves et al. 2006: a blank before, between and after the labels.
    states = np.full((batch, 2 * labels.shape[1] + 1), BLANK)
    states[:, 1::2] = labels
    may_skip = np.zeros(states.shape, bool)  # the blank between two different labels
    may_skip[:, 2:] = (states[:, 2:] != BLANK) & (states[:, 2:] != states[:, :-2])
    logits = np.log(np.maximum(frames, 1e-12))
    gains = np.take_along_axis(logits, states[:, np.newaxis], axis=2)  # (batch, frames, states)

    score = np.full(states.shape, -np.inf)
    score[:, :2] = gains[:, 0, :2]
    moves = np.zeros(gains.shape, np.int64)
    options = np.full((3, *states.shape), -np.inf)  # stay, go on by one state, by two
    for frame in range(1, count):
        options[0] = score
        options[1, :, 1:] = score[:, :-1]
        options[2, :, 2:] = np.where(may_skip[:, 2:], score[:, :-2], -np.inf)
        moves[:, frame] = options.argmax(axis=0)
        score = options.max(axis=0) + gains[:, frame]

    # A path ends at its last label or any blank after it.
    last_label = 2 * np.count_nonzero(labels != BLANK, axis=1) - 1
    score[np.arange(states.shape[1]) < last_label[:, np.newaxis]] = -np.inf
    path = np.zeros((batch, count), np.int64)
    path[:, -1] = score.argmax(axis=1)
    rows = np.arange(batch)
    for frame in range(count - 1, 0, -1):
        path[:, frame - 1] = path[:, frame] - moves[rows, frame, path[:, frame]]
    return np.where(states[rows[:, np.newaxis], path] == BLANK, -1, path // 2)


class _PlainUnpickler(pickle.Unpickler):
    """Loads dicts, strings and numbers only, so that a pickle can't run code."""

    def find_class(self, module: str, name: str) -> type:
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def _load_pickle(path: Path) -> dict:
    try:
        data = path.read_bytes()
        if len(data) > MAX_PICKLE_BYTES:
            raise pickle.UnpicklingError(f"it is larger than {MAX_PICKLE_BYTES:,} bytes")
        return dict(_PlainUnpickler(io.BytesIO(data)).load())
    # A damaged pickle can raise nearly any of the built-in errors.
    except (OSError, pickle.UnpicklingError, EOFError, ArithmeticError, LookupError) as error:
        raise ModelError(f"{path} can't be loaded: {error}. Export the model again.") from error
    except (AttributeError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise ModelError(f"{path} can't be loaded: {error}. Export the model again.") from error


class Recognizer:
    """Reads images with an exported model; safe to share between threads.

    Args:
        folder: Holds `ocr_model`, `char_to_num` and `num_to_char`.

    Raises:
        ModelError: If one of them is missing or damaged, or they are not of one export.
    """

    def __init__(self, folder: str | os.PathLike[str] = Path(__file__).parent) -> None:
        folder = Path(folder)
        if (folder / "new_export").is_dir():  # an export that is being swapped in: whole and newer
            folder /= "new_export"
        self._num_to_char = _load_pickle(folder / "num_to_char")
        char_to_num = _load_pickle(folder / "char_to_num")
        classes = len(self._num_to_char) + 1
        if (
            sorted(self._num_to_char) != list(range(1, classes))
            or not all(isinstance(text, str) for text in char_to_num)
            or {number: text for text, number in char_to_num.items()} != self._num_to_char
        ):
            raise ModelError(
                f"char_to_num and num_to_char in {folder} don't belong together. Export the model again."
            )
        try:
            self._model = tf.saved_model.load(folder / "ocr_model")
            # The first call is slow, so it is made here.
            frames = self._model.serve(np.full((1, 50, 200, 1), 255, np.uint8))
        except (OSError, ValueError, AttributeError, tf.errors.OpError) as error:
            raise ModelError(
                f"{folder / 'ocr_model'} can't be loaded: {error}. Export the model again."
            ) from error
        if frames.shape[-1] != classes:
            raise ModelError(
                f"ocr_model in {folder} has {frames.shape[-1]} classes, but num_to_char has "
                f"{classes - 1} characters and the blank. Export the model again."
            )

    @property
    def alphabet(self) -> str:
        """All characters that the model knows, in the order of their numbers."""
        return "".join(text for _, text in sorted(self._num_to_char.items()))

    def read(self, image: ImageSource) -> Reading:
        """Read one image.

        Raises:
            ImageError: If it can't be opened, see `open_image`.
        """
        return self._read_opened([open_image(image)])[0]

    def read_batch(self, images: Iterable[ImageSource]) -> list[Reading]:
        """Read many images, of any sizes, in their order.

        Raises:
            ImageError: If one can't be opened; the message starts with its position, from 0.
        """
        opened = []
        for position, image in enumerate(images):
            try:
                opened.append(open_image(image))
            except ImageError as error:
                raise ImageError(f"Image {position}: {error}") from error
        return self._read_opened(opened)

    def _read_opened(self, images: Sequence[np.ndarray]) -> list[Reading]:
        same_shape = defaultdict(list)  # the network takes images of one size at a time
        for position, image in enumerate(images):
            same_shape[image.shape].append(position)
        readings = {}
        for (height, width, _), positions in same_shape.items():
            edges = self._model.columns(np.int32(height), np.int32(width)).numpy()
            for start in range(0, len(positions), BATCH):
                chunk = positions[start : start + BATCH]
                frames = self._model.serve(np.stack([images[p] for p in chunk])).numpy()
                readings.update(zip(chunk, self._readings(frames, edges), strict=True))
        return [readings[position] for position in range(len(images))]

    def _readings(self, frames: np.ndarray, edges: np.ndarray) -> list[Reading]:
        labels, confidences = decode(frames)
        readings = []
        for row, path in enumerate(align(frames, labels)):
            characters = []
            for position, label in enumerate(labels[row][labels[row] != BLANK]):
                (own,) = np.nonzero(path == position)
                characters.append(
                    Character(
                        text=self._num_to_char[int(label)],
                        confidence=float(frames[row, own, label].max()),
                        left=float(edges[own[0]]),
                        right=float(edges[own[-1] + 1]),
                    )
                )
            text = "".join(character.text for character in characters)
            confidence = min(float(confidences[row]), 1.0)
            readings.append(Reading(text, confidence, tuple(characters), frames[row]))
        return readings


def find_images(path: Path) -> list[Path]:
    """List the images in a folder and the folders below it, sorted; a file is listed as it is."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)


def main() -> int:
    """Read the images named on the command line; return 1 if one could not be read, else 0."""
    parser = argparse.ArgumentParser(description="Read the text in images.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE_OR_FOLDER")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="also write file,text,confidence,error there"
    )
    arguments = parser.parse_args()
    files = [file for path in arguments.paths for file in find_images(path)]
    if not files:
        parser.error(f"no {', '.join(SUFFIXES)} files in {', '.join(map(str, arguments.paths))}")
    failed = 0
    with ExitStack() as stack:
        rows = None
        if arguments.csv:
            try:
                target = stack.enter_context(arguments.csv.open("w", newline="", encoding="utf-8"))
            except OSError as error:
                parser.error(f"{arguments.csv} can't be written: {error.strerror}")
            rows = csv.writer(target)
            rows.writerow(["file", "text", "confidence", "error"])
        try:
            recognizer = Recognizer()
        except ModelError as error:
            parser.exit(1, f"{error}\n")
        bar = stack.enter_context(tqdm(total=len(files), unit="image"))
        for start in range(0, len(files), BATCH):
            images, errors = {}, {}
            for file in files[start : start + BATCH]:
                try:
                    images[file] = open_image(file)
                except ImageError as error:
                    errors[file] = str(error)
            readings = dict(zip(images, recognizer.read_batch(images.values()), strict=True))
            for file in files[start : start + BATCH]:
                if file in errors:
                    failed += 1
                    tqdm.write(f"{file}: {errors[file]}", file=sys.stderr)
                    row = [file, "", "", errors[file]]
                else:
                    reading = readings[file]
                    tqdm.write(f"{file}\t{reading.text}\t{reading.confidence:.4f}")
                    row = [file, reading.text, f"{reading.confidence:.4f}", ""]
                if rows:
                    rows.writerow(row)
                bar.update()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

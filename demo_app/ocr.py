"""Read short text out of images with the network that `study.ipynb` exported into this folder.

In Python: `Recognizer().read("image.png").text`.
In a terminal: `python ocr.py FILE_OR_FOLDER... [--csv out.csv]`.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import pickle
import pickletools
import re
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow reads it while it is imported

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps
from tqdm import tqdm

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")
MAX_PIXELS = 25_000_000  # a photograph; with 4 bytes a pixel while it is decoded, 8 in a progressive JPEG
HUNGRY = ("WEBP", "TIFF")  # whose decoders hold 16 bytes a pixel; so does CMYK
MAX_HUNGRY_PIXELS = 13_000_000
MAX_SCANS_PIXELS = 1_000_000_000  # of a JPEG, which may go over its pixels again and again, a ms each
SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")  # how a layer of a JPEG begins
MAX_PARTS = 100_000  # of a file; Pillow keeps each of them
SMALL_BYTES = 100_000  # files up to here need no limits but that of the pixels
MAX_SECONDS = 1.5  # of the processor's time, to open an image
STRIP_PIXELS = 1_000_000  # to convert at a time
MAX_PICKLE_BYTES = 1_000_000
# What a pickled dict of characters and numbers is made of. Nothing here imports, calls, repeats or nests.
PLAIN_OPCODES = {
    "PROTO",
    "FRAME",
    "EMPTY_DICT",
    "MARK",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BININT1",
    "BININT2",
    "BININT",
    "MEMOIZE",
    "SETITEM",
    "SETITEMS",
    "STOP",
}
MANIFEST = Path("ocr_model", "assets.extra", "manifest.json")  # sizes and hashes of the other files
BATCH = 64  # images per call of the network, or fewer
AHEAD = 128  # images to open before those of one size go to the network together
BATCH_PIXELS = 16_000_000  # so that large images don't fill the memory
FEW_PIXELS = 4_000_000  # of the images that are read while the next ones are opened
BEAM_WIDTH = 16
UNUSUAL = 0.05  # weight of a text shorter or longer than all training labels: 5% are no match for 95%
COLUMNS = ["file", "text", "confidence", "sure", "error"]
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


class _LimitedFile:
    """A file that gives up when an image is made of millions of small parts, or of parts that swell."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell
        self._reads, self._end = 0, time.thread_time() + MAX_SECONDS
        self.max_reads = float(MAX_PARTS)

    def read(self, size: int = -1) -> bytes:
        self._reads += 1
        if self._reads > self.max_reads or time.thread_time() > self._end:
            raise ImageError("The image takes too long to open. Scale it down, or save or export it again.")
        return self._file.read(size)


def _check_strips(file: _LimitedFile) -> None:
    # Pillow makes a list of all strips or tiles of a TIFF before it can be asked how many there are.
    head = file.read(16)
    if head.startswith(b"BM"):
        file.max_reads = float("inf")  # a BMP may be read byte by byte; its time is limited
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        order = "<" if head.startswith(b"I") else ">"
        start, number, entry = ("8xQ", "Q", "HHQ8x") if b"+" in head[:4] else ("4xI", "H", "HHI4x")
        file.seek(struct.unpack_from(order + start, head)[0])
        (count,) = struct.unpack(order + number, file.read(struct.calcsize(order + number)))
        entries = file.read(count * struct.calcsize(order + entry))
        for tag, _, parts in struct.iter_unpack(order + entry, entries):
            if tag in (273, 324) and parts > MAX_PARTS:
                raise ImageError(f"The image is stored in {parts:,} parts. Save or export it again.")
    file.seek(0)


def open_image(source: ImageSource, channels: int = 1) -> np.ndarray:
    """Open an image as pixels: EXIF rotation applied, alpha laid on white, first frame only.

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
    is_small = isinstance(source, bytes) and len(source) <= SMALL_BYTES
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    elif isinstance(source, np.ndarray):
        source = _image_from_array(source)
    try:
        if isinstance(source, Image.Image):
            return _pixels(source, channels, is_own=False)
        if not isinstance(source, str | os.PathLike) and not hasattr(source, "read"):
            raise ImageError(
                f"A {type(source).__name__} is not an image. Give a path, bytes, an open file, "
                "a Pillow image or a uint8 array."
            )
        with ExitStack() as stack:
            if not hasattr(source, "read") and Path(source).stat().st_size > SMALL_BYTES:
                source = stack.enter_context(Path(source).open("rb"))
            if hasattr(source, "read") and not is_small:
                is_seekable = getattr(source, "seekable", lambda: False)()
                source = _LimitedFile(source if is_seekable else io.BytesIO(source.read()))
                source.seek(0)
                _check_strips(source)
            image = stack.enter_context(Image.open(source, formats=FORMATS))
            return _pixels(image, channels, is_own=True)
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
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


def _pixels(image: Image.Image, channels: int, is_own: bool) -> np.ndarray:
    if not image.width * image.height:
        raise ImageError("The image has no pixels. Give one of at least 1x1.")
    is_hungry = image.format in HUNGRY or image.mode == "CMYK"
    limit = MAX_HUNGRY_PIXELS if is_hungry else MAX_PIXELS
    if image.width * image.height > limit:
        raise _too_large(limit)
    if is_own and image.format in ("JPEG", "MPO"):
        image.fp.seek(0)
        scans = sum(len(SCAN.findall(part)) for part in iter(partial(image.fp.read, 1 << 20), b""))
        if scans * image.width * image.height > MAX_SCANS_PIXELS:
            raise ImageError(f"The image is stored in {scans:,} layers. Save or export it again.")
    if is_own and channels == 1:
        image.draft("L", None)  # a JPEG holds the grey image by itself
    image = ImageOps.exif_transpose(image, in_place=is_own) or image
    is_deep = image.mode.startswith(("I", "F"))  # 16 and 32 bits: Pillow's own conversion clips them
    if is_deep:
        bounds = [(v.min(), v.max()) for v in (_deep_values(strip) for _, strip in _strips(image))]
        low, high = np.min(bounds), np.max(bounds)
    pixels = np.empty((image.height, image.width, channels), np.uint8)
    for top, strip in _strips(image):
        if is_deep:
            values = (_deep_values(strip) - low) * (255 / max(high - low, 1e-9))
            strip = Image.fromarray(values.astype(np.uint8))
        elif image.has_transparency_data:
            strip = strip.convert("RGBA")
            if strip.getchannel("A").getextrema()[0] < 255:  # or there is nothing to lay on white
                strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        values = np.asarray(strip.convert("L" if channels == 1 else "RGB"))
        pixels[top : top + len(values)] = values.reshape(*values.shape[:2], channels)
    return pixels


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


def decode(frames: np.ndarray, lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Find the label sequence of each image with the highest weighted probability.

    A sequence shorter or longer than all the training labels counts `UNUSUAL` times its probability. Where
    the greedy sequence may not be the best, it is the best of the `BEAM_WIDTH` sequences that a beam search
    finds (Hannun et al., "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional
    Recurrent DNNs", 2014).

    Args:
        frames: float32 (batch, frames, classes), softmax outputs, class 0 the blank.
        lengths: Of the shortest and of the longest training label, in characters.

    Returns:
        labels: int64 (batch, at most frames), padded with `BLANK`.
        confidence: float32 (batch,), probability of the sequence, 0 to 1: the sum over all its
            alignments (Graves et al., "Connectionist Temporal Classification", 2006).
    """
    return _search_unsure(frames, *(tensor.numpy() for tensor in _decode_greedily(frames)), lengths)


def _search_unsure(
    frames: np.ndarray, labels: np.ndarray, confidence: np.ndarray, lengths: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    # All other sequences together have the rest of the probability.
    (unsure,) = np.nonzero(_weigh(labels, confidence, lengths) <= 1 - confidence)
    if not unsure.size:
        return labels, confidence
    searched, probability = (tensor.numpy() for tensor in _search(frames[unsure], _paths(frames)))
    best = np.arange(unsure.size), _weigh(searched, probability, lengths).argmax(axis=1)
    confidence = confidence.copy()
    confidence[unsure] = probability[best]
    labels = np.pad(labels, [(0, 0), (0, frames.shape[1] - labels.shape[1])])
    labels[unsure] = searched[best]
    return labels, confidence


def _paths(frames: np.ndarray) -> int:
    # The search refuses to give more sequences than there are: of each length at least as many as there are
    # characters; but if there is only one, blanks must stand between its repetitions.
    _, count, classes = frames.shape
    return min(BEAM_WIDTH, 1 + ((classes - 1) * count if classes > 2 else (count + 1) // 2))


def are_usual(labels: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """Tell which label sequences are neither shorter nor longer than all the training labels.

    Args:
        labels: Integers (..., longest), padded with `BLANK`.
        lengths: Of the shortest and of the longest training label, in characters.

    Returns:
        bool (...).
    """
    count = np.count_nonzero(labels != BLANK, axis=-1)
    return (lengths[0] <= count) & (count <= lengths[1])


def _weigh(labels: np.ndarray, probability: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    return np.where(are_usual(labels, lengths), 1, UNUSUAL) * probability


FRAMES = tf.TensorSpec([None, None, None], tf.float32)  # (batch, frames, classes)


@tf.function(input_signature=[FRAMES], autograph=False)
def _decode_greedily(frames: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    logits, logit_lengths = _time_first(frames)
    (labels,), _ = tf.nn.ctc_greedy_decoder(logits, logit_lengths, blank_index=BLANK)
    dense = tf.sparse.to_dense(labels, default_value=BLANK)
    return dense, _probability(dense, logits, logit_lengths)


@tf.function(autograph=False, reduce_retracing=True)
def _search(frames: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return labels (batch, count, frames), padded with `BLANK`, and their probabilities (batch, count)."""
    logits, logit_lengths = _time_first(frames)
    blank_last = tf.roll(logits, -1, axis=2)  # as the decoder wants it
    found, _ = tf.nn.ctc_beam_search_decoder(blank_last, logit_lengths, BEAM_WIDTH, top_paths=count)
    shape = tf.shape(frames, tf.int64)[:2]
    numbers = [
        tf.sparse.to_dense(tf.sparse.reset_shape(labels.with_values(labels.values + 1), shape))
        for labels in found
    ]
    labels = tf.stack(numbers, axis=1)
    flat = tf.reshape(labels, [-1, shape[1]])
    probability = _probability(flat, tf.repeat(logits, count, axis=1), tf.repeat(logit_lengths, count))
    return labels, tf.reshape(probability, [-1, count])


def _time_first(frames: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    logits = tf.math.log(tf.maximum(tf.transpose(frames, [1, 0, 2]), 1e-12))
    count, batch = tf.unstack(tf.shape(logits)[:2])
    return logits, tf.fill([batch], count)


def _probability(dense: tf.Tensor, logits: tf.Tensor, logit_lengths: tf.Tensor) -> tf.Tensor:
    # The loss refuses empty sequences: they get any label, and the product of the blanks instead.
    is_empty = tf.reduce_all(dense == BLANK, axis=1)
    first = tf.one_hot(tf.zeros_like(logit_lengths), tf.shape(dense)[1] + 1, dtype=tf.int32)
    filled = tf.pad(tf.cast(dense, tf.int32), [[0, 0], [0, 1]]) + first * tf.cast(is_empty, tf.int32)[:, None]
    loss = tf.nn.ctc_loss(tf.sparse.from_dense(filled), logits, None, logit_lengths, blank_index=BLANK)
    blanks = tf.reduce_sum(tf.nn.log_softmax(logits)[:, :, BLANK], axis=0)
    return tf.minimum(tf.exp(tf.where(is_empty, blanks, -loss)), 1)


def align(frames: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Find the most probable CTC alignment of label sequences with their frames.

    Args:
        frames: float32 (batch, frames, classes), softmax outputs, class 0 the blank.
        labels: int64 (batch, longest), padded with `BLANK`; each fits into the frames.

    Returns:
        int64 (batch, frames): which label, counted from 0, each frame gives; -1 where blank.
    """
    path = frames.argmax(axis=2)
    starts = path != BLANK
    starts[:, 1:] &= path[:, 1:] != path[:, :-1]
    positions = np.where(path == BLANK, -1, starts.cumsum(axis=1) - 1)
    for row, numbers in enumerate(labels):
        numbers = numbers[numbers != BLANK]
        # The most probable path of all is the best alignment of what it spells.
        if not np.array_equal(path[row][starts[row]], numbers):
            positions[row] = _viterbi(frames[row], numbers)
    return positions


def _viterbi(frames: np.ndarray, labels: np.ndarray) -> np.ndarray:
    # Graves et al. 2006: a blank before, between and after the labels.
    states = np.full(2 * len(labels) + 1, BLANK)
    states[1::2] = labels
    may_skip = np.zeros(len(states), bool)  # the blank between two different labels
    may_skip[2:] = (states[2:] != BLANK) & (states[2:] != states[:-2])
    gains = np.log(np.maximum(frames[:, states], 1e-12))  # (frames, states)
    score = np.full(len(states), -np.inf)
    score[:2] = gains[0, :2]
    moves = np.zeros(gains.shape, np.int64)
    options = np.full((3, len(states)), -np.inf)  # stay, go on by one state, by two
    for frame in range(1, len(frames)):
        options[0] = score
        options[1, 1:] = score[:-1]
        options[2, 2:] = np.where(may_skip[2:], score[:-2], -np.inf)
        moves[frame] = options.argmax(axis=0)
        score = options.max(axis=0) + gains[frame]
    path = np.zeros(len(frames), np.int64)
    path[-1] = len(states) - 1 - np.argmax(score[:-3:-1])  # the last blank or the last label
    for frame in range(len(frames) - 1, 0, -1):
        path[frame - 1] = path[frame] - moves[frame, path[frame]]
    return np.where(path % 2, path // 2, -1)


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


def _load_pickle(path: Path) -> dict:
    with path.open("rb") as file:
        data = file.read(MAX_PICKLE_BYTES + 1)
    if len(data) > MAX_PICKLE_BYTES:
        raise ModelError(f"{path} is larger than {MAX_PICKLE_BYTES:,} bytes. Export the model again.")
    try:
        opcodes = [opcode.name for opcode, _, _ in pickletools.genops(data)]
        if opcodes.count("EMPTY_DICT") != 1 or not PLAIN_OPCODES.issuperset(opcodes):
            raise ValueError("it holds other things than one dictionary of characters and numbers")
        return dict(pickle.loads(data))  # noqa: S301, its opcodes were looked at
    except Exception as error:
        raise ModelError(f"{path} can't be loaded ({str(error)[:100]}). Export the model again.") from error


class Recognizer:
    """Reads images with an exported model; safe to share between threads.

    Args:
        folder: Holds `ocr_model`, `char_to_num` and `num_to_char`.

    Raises:
        ModelError: If a file is missing or not as `MANIFEST` says, or they are not of one export.

    Attributes:
        folder: Where the model really lies: `new_export` in that folder while an export is swapped in.
        channels: Of the images that the network takes: 1 for grey, 3 for RGB.
        about: What the notebook wrote about the model: its data set, alphabet, lengths, measured quality.
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
            self._model = tf.saved_model.load(self.folder / "ocr_model")
            about = (self.folder / "ocr_model" / "assets.extra" / "about.json").read_text(encoding="utf-8")
            self.about = json.loads(about)
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
        frames = reading.frames[np.newaxis]
        labels, probability = (tensor.numpy()[0] for tensor in _search(frames, _paths(frames)))
        order = np.argsort(-probability)[:count]
        return [(self._text(labels[path]), float(probability[path])) for path in order]

    def frame_edges(self, height: int, width: int) -> np.ndarray:
        """Return the columns, in pixels, at which frames begin and end in an image: float32 (frames + 1,)."""
        return self._frame_edges(height, width)

    def name(self, number: int) -> str:
        """Return the character of a class, or "blank"."""
        return self._num_to_char.get(int(number), "blank")

    def _text(self, labels: np.ndarray) -> str:
        return "".join(self._num_to_char[int(label)] for label in labels if label != BLANK)

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
        return frames, *_decode_greedily(frames)

    def _readings(
        self, frames: np.ndarray, labels: np.ndarray, confidences: np.ndarray, edges: np.ndarray
    ) -> list[Reading]:
        labels, confidences = _search_unsure(frames, labels, confidences, self.about["lengths"])
        usual = are_usual(labels, self.about["lengths"])
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
            text = self._text(labels[row])
            confidence, threshold = float(confidences[row]), self.about["threshold"]
            sure = bool(usual[row]) and threshold is not None and confidence >= threshold
            readings.append(Reading(text, confidence, sure, tuple(characters), frames[row]))
        return readings


def find_images(path: Path) -> list[Path]:
    """List the images in a folder and the folders below it, sorted; a file is listed as it is."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)


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
                rows = csv.writer(stack.enter_context(arguments.csv.open("w", **options)))
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

"""Runs an exported network: with TensorFlow, or with onnxruntime where that is not installed."""

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow reads it while it is imported

STRIDE = 4  # columns of the input per frame of the output
Network = Callable[[np.ndarray], np.ndarray]  # uint8 (batch, height, width, channels) to softmax outputs


class ModelError(RuntimeError):
    """Exported files that are missing, damaged or don't belong together, or that nothing here can run."""


class Shape(NamedTuple):
    """The network's input: pixels, channels (1 grey, 3 RGB), how far images are stretched in width.

    `lines` of text, 1 or 2, stand one above the other in an image, and are laid side by side.
    """

    height: int
    width: int
    channels: int
    stretch: float
    lines: int = 1

    @property
    def frames(self) -> int:
        """How many frames the network gives."""
        return self.width // STRIDE

    def line_size(self, height: int, width: int) -> tuple[int, int]:
        """Compute height and width, or columns of them, after lines are laid side by side."""
        return (height, width) if self.lines == 1 else (height - height * 2 // 5, 2 * width)

    def fitted_size(self, height: int, width: int) -> tuple[int, int]:
        """Compute the height and width in which a line of text fits into the input."""
        size = np.float32([height, width]) * np.float32([1, self.stretch])
        scale = (np.float32([self.height, self.width]) / size).min()
        return tuple(np.maximum(np.rint(size * scale), 1).astype(int).tolist())

    def frame_edges(self, height: int, width: int) -> np.ndarray:
        """Compute where the frames lie in a raw image of a size in pixels.

        Returns:
            float32 (frames + 1,): the columns, in pixels, at which frames begin and end. Those of a second
            line go on where the first one ends.
        """
        height, width = self.line_size(height, width)
        columns = np.arange(0, self.width + 1, STRIDE, np.float32)
        return np.minimum(columns * width / self.fitted_size(height, width)[1], width)


def lay_side_by_side(images: np.ndarray) -> np.ndarray:
    """Cut images of two lines where there is least ink near the middle, and lay the halves side by side.

    Args:
        images: uint8 (batch, height, width, channels).

    Returns:
        uint8 (batch, three fifths of the height, twice the width, channels).
    """
    height = images.shape[1]
    first = height * 2 // 5
    rows = height - first  # of each half, which repeats its edge where it ends sooner
    ink = images.std(axis=2, dtype=np.float32).mean(axis=2)
    ink += 10 * np.abs(np.arange(height, dtype=np.float32) / height - 0.5)  # the middle one of equal rows
    cut = first + ink[:, first : rows + 1].argmin(axis=1)
    halves = np.clip(cut[:, np.newaxis] + np.arange(-rows, rows), 0, height - 1)
    lines = np.take_along_axis(images, halves[:, :, np.newaxis, np.newaxis], axis=1)
    return np.concatenate(np.split(lines, 2, axis=1), axis=2)


def prepare(images: np.ndarray, shape: Shape) -> np.ndarray:
    """Prepare raw images as the exported SavedModel does by itself.

    Args:
        images: uint8 (batch, height, width, channels), of any height and width.
        shape: Of the network's input.

    Returns:
        float32 (batch, shape.width, shape.height, channels).
    """
    if shape.lines == 2:
        images = lay_side_by_side(images)
    height, width = shape.fitted_size(*images.shape[1:3])
    prepared = np.zeros((len(images), shape.height, shape.width, shape.channels), np.float32)
    fitted = prepared[:, :height, :width]
    if images.shape[1:3] == (height, width):
        fitted[:] = images
    else:
        for target, image in zip(fitted, images, strict=True):
            for channel in range(shape.channels):
                grey = Image.fromarray(image[:, :, channel].astype(np.float32))
                target[:, :, channel] = grey.resize((width, height), Image.Resampling.BILINEAR)
    axes = (1, 2, 3)
    deviation = fitted.std(axis=axes, keepdims=True)
    fitted -= fitted.mean(axis=axes, keepdims=True)
    fitted /= np.maximum(deviation, 1 / math.sqrt(height * width * shape.channels))
    return prepared.transpose(0, 2, 1, 3)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep from the terminal what libraries write there; no setting silences all that TensorFlow's do."""
    terminal, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nothing)


def load_network(folder: Path, shape: Shape, runtime: str | None) -> Network:
    """Load the SavedModel `ocr_model` of an export, or `ocr_model.onnx`; the runtime is `Recognizer`'s.

    Raises:
        ModelError: If there is no such runtime, or no ONNX file.
    """
    installed = "tensorflow" if find_spec("tensorflow") else "onnx"
    runtime = runtime or os.environ.get("RUNTIME") or installed
    if runtime == "onnx":
        if not (path := folder / "ocr_model.onnx").exists():
            raise ModelError(f"There is no {path}. Export the model again, or use TensorFlow.")
        try:
            import onnxruntime
        except ImportError as error:
            missing = "Neither TensorFlow nor" if installed == "onnx" else "RUNTIME is onnx, but no"
            raise ModelError(f"{missing} onnxruntime is installed. Run pip install onnxruntime.") from error
        options = onnxruntime.SessionOptions()
        # More than two are no faster; processes that have a core each say so.
        options.intra_op_num_threads = int(re.match(r"\d*", os.environ.get("OMP_NUM_THREADS", ""))[0] or 2)
        session = onnxruntime.InferenceSession(path, options)
        return lambda images: session.run(None, {"image": prepare(images, shape)})[0]
    if runtime != "tensorflow":
        raise ModelError(f'RUNTIME is {runtime!r}; set it to "tensorflow" or "onnx".')
    if installed == "onnx":
        raise ModelError("RUNTIME is tensorflow, but TensorFlow isn't installed. Unset RUNTIME.")
    with quiet():
        import tensorflow as tf
    model = tf.saved_model.load(folder / "ocr_model")
    images = tf.TensorSpec([None, None, None, shape.channels], tf.uint8)
    # A function with one signature is quicker to call than one that may be traced again.
    serve = tf.function(model.serve, [images], autograph=False).get_concrete_function()
    return lambda images: serve(tf.constant(images)).numpy()

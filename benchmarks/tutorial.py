"""The peer of the benchmarks: the well-known tutorial recipe for this data set, as published.

Two convolutions, two bidirectional LSTMs, Adam, no augmentation: A. K. Nain, "OCR model for reading
Captchas", Keras code examples, 2020.
"""

import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers
from PIL import Image
from runs import DATASET, WORK, notebook_functions

from training.data import scan, split
from training.fetching import fetch


def build_model(height: int, width: int, classes: int) -> keras.Model:
    """Build the network: float32 (batch, width, height, 1) -> logits float32 (batch, width // 4, classes)."""
    inputs = x = keras.Input((width, height, 1))
    for filters in (32, 64):
        x = layers.Conv2D(filters, 3, activation="relu", kernel_initializer="he_normal", padding="same")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Reshape((width // 4, -1))(x)
    x = layers.Dropout(0.2)(layers.Dense(64, activation="relu")(x))
    for units in (128, 64):
        x = layers.Bidirectional(layers.LSTM(units, return_sequences=True, dropout=0.25))(x)
    return keras.Model(inputs, layers.Dense(classes)(x))


def prepare(images: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Scale, resize and transpose uint8 (batch, any height, any width, 1) to the network's input."""
    images = tf.image.resize(tf.image.convert_image_dtype(images, tf.float32), [height, width])
    return tf.transpose(images, [0, 2, 1, 3])


def decode(logits: np.ndarray, num_to_char: dict[int, str]) -> list[str]:
    """Read float32 (batch, frames, classes) logits greedily; class 0 is the blank."""
    lengths = tf.fill([len(logits)], logits.shape[1])
    (label_ids,), _ = keras.ops.ctc_decode(logits, lengths, strategy="greedy", mask_index=0)
    return ["".join(num_to_char[n] for n in row if n > 0) for row in np.asarray(label_ids)]


class Clock(keras.callbacks.Callback):
    """Notes, after each epoch, the seconds of `fit` so far, exact match and loss on held-out images."""

    def __init__(
        self, images: np.ndarray, labels: list[str], num_to_char: dict[int, str], stop: float
    ) -> None:
        super().__init__()
        self.images, self.labels, self.num_to_char, self.stop = images, labels, num_to_char, stop
        self.rows: list[tuple[float, float, float]] = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Note seconds, exact match and loss; stop once the match is reached."""
        texts = decode(self.model.predict(self.images, verbose=0), self.num_to_char)
        match = float(np.mean([a == b for a, b in zip(texts, self.labels, strict=True)]))
        self.rows.append((time.perf_counter() - self.start, match, logs["val_loss"]))
        self.model.stop_training = match >= self.stop


def train(
    splits: dict[str, pd.DataFrame], seed: int, stop: float = 2.0
) -> tuple[list[tuple[float, float, float]], list[str]]:
    """Train the recipe, without its early stopping, on images of any size, resized to a usual one.

    Args:
        splits: Tables with `path` and `label`: "train" to learn from, "validation", "test" to read last.
        seed: Of weights and order.
        stop: Exact match on the validation split that ends it.

    Returns:
        Seconds, exact match and validation loss after each epoch, and the texts read in the test split.
    """
    keras.utils.set_random_seed(seed)
    labels = {name: list(rows["label"]) for name, rows in splits.items()}
    every = [label for own in labels.values() for label in own]
    num_to_char = dict(enumerate(sorted(set("".join(every))), 1))
    char_to_num = {character: number for number, character in num_to_char.items()}
    max_length = max(map(len, every))
    opened = {
        name: [np.asarray(Image.open(path).convert("L"))[..., np.newaxis] for path in rows["path"]]
        for name, rows in splits.items()
    }
    heights, widths = zip(*(image.shape[:2] for image in opened["train"]), strict=True)
    height, width = int(np.median(heights)), int(np.quantile(widths, 0.9))
    images = {
        name: np.concatenate([prepare(image[np.newaxis], height, width) for image in own])
        for name, own in opened.items()
    }
    label_ids = {
        name: np.array([[char_to_num[c] for c in label] + [0] * (max_length - len(label)) for label in own])
        for name, own in labels.items()
    }
    model = build_model(height, width, len(num_to_char) + 1)
    model.compile(keras.optimizers.Adam(1e-3), loss=keras.losses.CTC(), jit_compile=False)
    clock = Clock(images["validation"], labels["validation"], num_to_char, stop)
    model.fit(
        images["train"],
        label_ids["train"],
        validation_data=(images["validation"], label_ids["validation"]),
        batch_size=16,
        epochs=100,
        callbacks=[clock],
        verbose=0,
    )
    return clock.rows, decode(model.predict(images["test"], verbose=0), num_to_char)


def stop_early(rows: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Cut a run's epochs where ten without a better validation loss would have ended it, as published."""
    losses = [loss for _, _, loss in rows]
    ends = (end for end in range(1, len(rows)) if end - 1 - np.argmin(losses[:end]) >= 10)
    return rows[: next(ends, None)]


def read_splits(**parameters: Any) -> dict[str, pd.DataFrame]:  # noqa: ANN401, the notebook's
    """Split a data set as the notebook does with these parameters."""
    study = notebook_functions()
    defaults = {name: getattr(study, name) for name in ("LABEL_PATTERN", "SEED", "LABELS", "SPLIT_BY")}
    chosen = {"DATASET": DATASET} | defaults | parameters
    folder, _ = fetch(chosen["DATASET"], WORK / "data", chosen["SEED"])
    table, _, _ = scan(folder, chosen["LABEL_PATTERN"])
    return split(table, chosen["SEED"], None, chosen["LABELS"], chosen["SPLIT_BY"])


def measure(done: Path, seed: int, stop: float) -> list[list[float]]:
    """Train the recipe on the notebook's split of the default data set, unless that was done already.

    Args:
        done: JSON file that keeps the result.
        seed: See `train`; also of the split.
        stop: See `train`.

    Returns:
        Seconds, exact match and validation loss after each epoch.
    """
    if not done.exists():
        epochs, _ = train(read_splits(SEED=seed), seed, stop)
        done.parent.mkdir(parents=True, exist_ok=True)
        done.write_text(json.dumps(epochs))
    return json.loads(done.read_text())

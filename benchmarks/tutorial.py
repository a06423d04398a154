"""The peer of the benchmarks: the well-known tutorial recipe for this data set, as published.

Two convolutions, two bidirectional LSTMs, Adam, no augmentation: A. K. Nain, "OCR model for reading
Captchas", Keras code examples, 2020.
"""

import time

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers

WIDTH, HEIGHT, FRAMES = 200, 50, 50


def build_model(classes: int) -> keras.Model:
    """Build the network: float32 (batch, WIDTH, HEIGHT, 1) -> logits float32 (batch, FRAMES, classes)."""
    inputs = x = keras.Input((WIDTH, HEIGHT, 1))
    for filters in (32, 64):
        x = layers.Conv2D(filters, 3, activation="relu", kernel_initializer="he_normal", padding="same")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Reshape((FRAMES, -1))(x)
    x = layers.Dropout(0.2)(layers.Dense(64, activation="relu")(x))
    for units in (128, 64):
        x = layers.Bidirectional(layers.LSTM(units, return_sequences=True, dropout=0.25))(x)
    return keras.Model(inputs, layers.Dense(classes)(x))


def prepare(images: tf.Tensor) -> tf.Tensor:
    """Scale and transpose uint8 (batch, height, width, 1) to the network's input."""
    images = tf.image.resize(tf.image.convert_image_dtype(images, tf.float32), [HEIGHT, WIDTH])
    return tf.transpose(images, [0, 2, 1, 3])


def decode(logits: np.ndarray, num_to_char: dict[int, str]) -> list[str]:
    """Read float32 (batch, FRAMES, classes) logits greedily; class 0 is the blank."""
    lengths = tf.fill([len(logits)], logits.shape[1])
    (numbers,), _ = keras.ops.ctc_decode(logits, lengths, strategy="greedy", mask_index=0)
    return ["".join(num_to_char[n] for n in row if n > 0) for row in np.asarray(numbers)]


class Clock(keras.callbacks.Callback):
    """Notes, after each epoch, the seconds of `fit` so far and the exact match on held-out images."""

    def __init__(
        self, images: np.ndarray, labels: list[str], num_to_char: dict[int, str], stop: float
    ) -> None:
        super().__init__()
        self.images, self.labels, self.num_to_char, self.stop = images, labels, num_to_char, stop
        self.rows: list[tuple[float, float]] = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Note seconds and exact match; stop once the match is reached."""
        texts = decode(self.model.predict(self.images, verbose=0), self.num_to_char)
        match = float(np.mean([a == b for a, b in zip(texts, self.labels, strict=True)]))
        self.rows.append((time.perf_counter() - self.start, match))
        self.model.stop_training = self.model.stop_training or match >= self.stop


def train(
    train: pd.DataFrame,
    held_out: pd.DataFrame,
    images: dict[str, np.ndarray],
    characters: str,
    seed: int,
    early_stopping: bool,
    stop: float = 2.0,
) -> tuple[list[tuple[float, float]], keras.Model]:
    """Train the recipe.

    Args:
        train: Table with `path` and `label` to learn from.
        held_out: Likewise, for validation.
        images: uint8 (height, width, 1) for each path.
        characters: The alphabet.
        seed: Of weights and order.
        early_stopping: Whether ten epochs without a better validation loss end it, as published.
        stop: Exact match on `held_out` that ends it.

    Returns:
        Seconds and exact match after each epoch, and the network.
    """
    keras.utils.set_random_seed(seed)
    char_to_num = {character: number for number, character in enumerate(characters, start=1)}
    num_to_char = {number: character for character, number in char_to_num.items()}
    prepared = [
        prepare(np.stack([images[path] for path in part["path"]])).numpy() for part in (train, held_out)
    ]
    labels = [
        np.array([[char_to_num[c] for c in label] for label in part["label"]]) for part in (train, held_out)
    ]
    model = build_model(len(characters) + 1)
    model.compile(keras.optimizers.Adam(1e-3), loss=keras.losses.CTC(), jit_compile=False)
    clock = Clock(prepared[1], list(held_out["label"]), num_to_char, stop)
    callbacks = [clock]
    if early_stopping:
        callbacks.append(keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True))
    model.fit(
        prepared[0],
        labels[0],
        validation_data=(prepared[1], labels[1]),
        batch_size=16,
        epochs=100,
        callbacks=callbacks,
        verbose=0,
    )
    return clock.rows, model

"""How well a network reads: tables of predictions, calibration, metrics."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from decoding import are_usual, decode, to_text
from rapidfuzz.distance import Levenshtein

from training.intervals import wilson_interval

Losses = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # of each image, from label ids and logits


def predict(
    model: keras.Model,
    batches: tf.data.Dataset,
    ctc_losses: Losses,
    num_to_char: dict[int, str],
    lengths: list[int],
    temperature: float,
) -> pd.DataFrame:
    """Read batches of images, one after the other, as the app does.

    Args:
        model: The network: float32 images to logits, float32 (batch, frames, classes).
        batches: Of images and label ids.
        ctc_losses: Of label ids and logits.
        num_to_char: Number to character.
        lengths: Of the shortest and of the longest training label.
        temperature: Which the logits are divided by.

    Returns:
        Columns `label`, `text`, `right`, `confidence` (0 to 1), `loss`, the CTC loss per character, and
        `usual`: whether the text's length is one that `are_usual` accepts, without which the app is never
        sure.
    """
    rows = []
    for images, label_ids in batches:
        logits = model.predict_on_batch(images) / temperature
        read, confidences = decode(tf.nn.softmax(logits).numpy(), lengths)
        labels = [to_text(row, num_to_char) for row in label_ids.numpy()]
        texts = [to_text(row, num_to_char) for row in read]
        losses = ctc_losses(label_ids, logits).numpy()
        rows += zip(labels, texts, confidences, losses, are_usual(read, lengths), strict=True)
    table = pd.DataFrame(rows, columns=["label", "text", "confidence", "loss", "usual"])
    return table.assign(right=table["label"] == table["text"], loss=table["loss"] / table["label"].str.len())


def choose_temperature(logits: np.ndarray, label_ids: np.ndarray, ctc_losses: Losses) -> float:
    """Choose the temperature, 1 to 3, with the least CTC loss (Guo et al., 2017).

    It is never below 1: a few validation images can't show that a network may be surer than it is.

    Args:
        logits: float32 (images, frames, classes).
        label_ids: int32 (images, max_length), padded with the blank.
        ctc_losses: Of label ids and logits.
    """
    temperatures = np.linspace(1, 3, 41).tolist()
    parts = [slice(start, start + 32) for start in range(0, len(logits), 32)]  # CTC takes much memory
    losses = [
        np.mean(np.concatenate([ctc_losses(label_ids[part], logits[part] / value) for part in parts]))
        for value in temperatures
    ]
    return temperatures[np.argmin(losses)]


def choose_threshold(predictions: pd.DataFrame, precision: float = 0.999, least: int = 500) -> float | None:
    """Choose the least confidence from which on so many predictions are right; None where there is none.

    Args:
        predictions: What `predict` returns; those of unusual length don't count, as they are never sure.
        precision: Share of right ones among those with at least that confidence.
        least: How many those must be, for a few can all be right by chance.
    """
    usual = predictions[predictions["usual"]]
    by_confidence = usual.groupby("confidence")["right"].agg(["sum", "size"])[::-1].cumsum()
    is_enough = (by_confidence["sum"] >= precision * by_confidence["size"]) & (by_confidence["size"] >= least)
    enough = by_confidence.index[is_enough]
    return float(enough[-1]) if len(enough) else None


def character_error_rate(labels: list[str], texts: list[str]) -> float:
    """Compute the CER: insertions, deletions and substitutions per character of the labels."""
    return sum(map(Levenshtein.distance, labels, texts)) / sum(map(len, labels))


def compare_characters(labels: list[str], texts: list[str]) -> pd.DataFrame:
    """Line up the characters of labels and texts with the fewest edits (Levenshtein, 1966).

    Returns:
        One row per character of a label and per inserted one, with the columns `position` (from 1),
        `label` and `text`, "" where there is none, and `right`.
    """
    rows = []
    for label, text in zip(labels, texts, strict=True):
        for _, a, b, c, d in Levenshtein.opcodes(label, text):
            pairs = itertools.zip_longest(label[a:b], text[c:d], fillvalue="")
            rows += [(a + offset, *pair) for offset, pair in enumerate(pairs, start=1)]
    table = pd.DataFrame(rows, columns=["position", "label", "text"])
    return table.assign(right=table["label"] == table["text"])


def measure(predictions: pd.DataFrame, paths: list[str], threshold: float | None) -> dict[str, Any]:
    """Compute the metrics of a split's predictions.

    Args:
        predictions: What `predict` returns.
        paths: Of the images.
        threshold: Confidence from which on a prediction of usual length is sure; None: none is.
    """
    right, confidence = predictions["right"], predictions["confidence"]
    compared = compare_characters(predictions["label"], predictions["text"])
    confusions = compared[~compared["right"]].value_counts(["label", "text"])
    expected = compared[compared["label"] != ""]  # without inserted characters
    misread = predictions.assign(file=[Path(path).name for path in paths])[~right]
    sure = predictions["usual"] & (confidence >= (math.inf if threshold is None else threshold))
    return {
        "exact_match": float(right.mean()),
        "exact_match_interval": wilson_interval(int(right.sum()), len(right)),
        "cer": character_error_rate(predictions["label"], predictions["text"]),
        "accuracy_per_position": expected.groupby("position")["right"].mean().round(4).to_dict(),
        "accuracy_per_character": expected.groupby("label")["right"].mean().round(4).to_dict(),
        "confusions": confusions.reset_index(name="count").to_dict("records"),
        "misread": misread[["file", "label", "text", "confidence"]].to_dict("records"),
        "mean_confidence": float(confidence.mean()),
        "sure": int(sure.sum()),
        "sure_and_right": int((right & sure).sum()),
        "brier_score": float(((confidence - right) ** 2).mean()),
        "reliability": reliability(predictions).reset_index(drop=True).to_dict("records"),
    }


def reliability(predictions: pd.DataFrame) -> pd.DataFrame:
    """Compare confidence and exact match: of predictions with 0.9, nine of ten should be right.

    Returns:
        One row per range of confidences, the index, with the number of `images`, their mean `confidence` and
        their `exact_match`.
    """
    edges = [0, 0.5, 0.9, 0.99, 0.999, 1]
    ranges = pd.cut(predictions["confidence"].clip(0, 1), edges, include_lowest=True)
    columns = {
        "images": ("right", "size"),
        "confidence": ("confidence", "mean"),
        "exact_match": ("right", "mean"),
    }
    return predictions.groupby(ranges, observed=True).agg(**columns).rename_axis("range")

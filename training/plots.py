"""The notebook's figures."""

import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from ocr import Reading

FONTS = ["monospace", "sans-serif"]  # the second where the first lacks a character


def show(figure: Figure, path: Path | None = None) -> None:
    """Show a figure in the notebook, and save it if it has a path."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a box shows what the fonts lack
        figure.tight_layout()
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=120)
        figure.set_dpi(80)
        plt.show()
    plt.close(figure)


def from_left(title: str) -> str:
    """Keep a title's parts in their order where some run from right to left."""
    runs_left = not {"R", "AL"}.isdisjoint(map(unicodedata.bidirectional, title))
    return "\u200e" + title.replace(" (", "\u200e (") if runs_left else title


def draw_images(images: Iterable[np.ndarray], titles: Sequence[str], columns: int = 4) -> Figure:
    """Draw images, each (height, width) or (height, width, 1 or 3), in a grid with their titles."""
    rows = -(-len(titles) // columns)
    size = (2.6 * columns, 1.05 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="none")
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        step = max(1, max(image.shape[:2]) // 400)  # the figure would keep all pixels of a photograph
        axis.imshow(image[::step, ::step], cmap="gray")
        axis.set_title(from_left(title), fontsize=9, family=FONTS, parse_math=False)
    return figure


def draw_counts(labels: Sequence[str]) -> Figure:
    """Draw how often the rarest characters of the labels occur."""
    counts = Counter("".join(labels))
    rarest = sorted(sorted(counts), key=counts.__getitem__)[:60]
    figure, axis = plt.subplots(figsize=(10, 2.5))
    axis.bar(rarest, [counts[character] for character in rarest])
    axis.set(title=f"How often characters occur: the {len(rarest)} rarest of {len(counts)}", ylabel="count")
    return figure


def draw_architecture(model: keras.Model) -> Figure:
    """Draw one box per layer with its output shape and number of parameters."""
    figure, axis = plt.subplots(figsize=(7, 0.42 * len(model.layers)))
    colours = {"Conv2D": "#9ecae1", "Conv1D": "#9ecae1", "Bidirectional": "#fdae6b", "Dense": "#a1d99b"}
    colours["MultiHeadAttention"] = colours["Bidirectional"]
    for row, layer in enumerate(reversed(model.layers)):
        kind = type(layer).__name__
        axis.barh(row, 1, height=0.8, color=colours.get(kind, "#eeeeee"), edgecolor="#888888")
        texts = [kind, str(tuple(layer.output.shape[1:])), f"{layer.count_params():,}"]
        for x, text, align in zip((0.02, 0.45, 0.98), texts, ("left", "left", "right"), strict=True):
            axis.text(x, row, text, va="center", ha=align, fontsize=9)
    axis.set(xlim=(0, 1), ylim=(-0.6, len(model.layers) - 0.4))
    axis.axis("off")
    axis.set_title(f"layer, output shape, parameters ({model.count_params():,} in all)", fontsize=10)
    return figure


def draw_history(history: pd.DataFrame) -> Figure:
    """Draw losses and exact matches over the epochs; both are measured on training and validation images."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
    epochs, names = history["epoch"] + 1, ["training (augmented)", "validation"]
    left.semilogy(epochs, history[["loss", "val_loss"]], label=names)
    left.set(title="CTC loss", xlabel="epoch")
    right.plot(epochs, 100 * history[["exact_match", "val_exact_match"]], label=names)
    right.set(title="exact match, %", xlabel="epoch")
    for axis in (left, right):
        axis.legend()
        axis.grid(alpha=0.3)
    return figure


def draw_reading(
    image: np.ndarray, reading: Reading, edges: np.ndarray, name: Callable[[int], str]
) -> Figure:
    """Draw an image and, below it, the probability of each character in each frame.

    Args:
        image: uint8 (height, width, channels).
        reading: Of that image.
        edges: float32 (frames + 1,), the columns of the image at which frames begin and end.
        name: Gives the character of a class.
    """
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 4), sharex=True, height_ratios=[1, 1])
    extent = (0, image.shape[1], image.shape[0], 0)
    top.imshow(image, cmap="gray", aspect="auto", extent=extent)
    for character in reading.characters:
        top.axvspan(character.left, character.right, color="tab:orange", alpha=0.4)
    title = from_left(f"{reading.text} ({reading.confidence:.1%})")
    top.set_title(title, family=FONTS, parse_math=False)
    chances = reading.frames.max(axis=0)
    likely = [number for number in np.argsort(-chances)[:20] if chances[number] >= 0.01][::-1]
    bottom.pcolormesh(edges, np.arange(len(likely) + 1), reading.frames[:, likely].T, cmap="Blues")
    bottom.set_yticks(np.arange(len(likely)) + 0.5, [name(number) for number in likely])
    bottom.set(xlabel="column of the image", title="probability of each character in each frame")
    return figure

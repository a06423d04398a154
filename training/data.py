"""From a folder of images to a table of paths and labels, the network's input shape and the splits."""

import hashlib
import math
import stat
import unicodedata
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
from decoding import BLANK, frames_needed, reorder
from images import MIN_CONTRAST, SMALL_BYTES, ImageError, has_two_lines, open_image
from network import STRIDE, Shape
from PIL import Image
from tqdm import tqdm

from training.errors import DatasetError
from training.labels import find_labels
from training.writing import clean

ROWS, MAX_WIDTH = 32, 1536  # of the input: its rows, always, so that weights fit any data; its most columns
FRAMES_PER_CHARACTER = 2.5  # at least, for nearly all images
MIN_STRETCH, MAX_STRETCH = 1.5, 4  # more frames read better where labels are few
MIN_IMAGES = 10


def lay_side_by_side(images: tf.Tensor) -> tf.Tensor:
    """Do in a graph what the app's `lay_side_by_side` does to images of two lines."""
    height = tf.shape(images)[1]
    first = height * 2 // 5
    rows = height - first
    ink = tf.reduce_mean(tf.math.reduce_std(tf.cast(images, tf.float32), axis=2), axis=2)
    ink += 10 * tf.abs(tf.range(height, dtype=tf.float32) / tf.cast(height, tf.float32) - 0.5)
    cut = first + tf.argmin(ink[:, first : rows + 1], axis=1, output_type=tf.int32)
    halves = tf.clip_by_value(cut[:, tf.newaxis] + tf.range(-rows, rows), 0, height - 1)
    return tf.concat(tf.split(tf.gather(images, halves, batch_dims=1), 2, axis=1), axis=2)


def read_labels(
    folder: Path, pattern: str, ignore_case: bool, label_from: str | Path | None
) -> tuple[pd.DataFrame, str]:
    """List the images of a folder with their labels, see `clean`. Says where labels come from.

    Returns:
        Columns `path`, `label`, empty where there is none, `split`, which a list or folder gives the image,
        else empty, `note` on the label, and `problem`, empty for images that may be opened; where labels come
        from.

    Raises:
        DatasetError: If there are no images, or it isn't clear which labels they have.
    """
    found = find_labels(folder, pattern, label_from)
    print(as_unicode("\n".join(found.said)))
    rows = [(str(image), label, split, "") for image, label, split in found.rows]
    rows += [(name, label, "", "no image has this name") for name, label in found.missing]
    labelled = []
    for path, label, given, problem in rows:
        label, note = clean(label, ignore_case)
        texts = as_unicode(path), as_unicode(label)
        problem = problem or "name or label is not Unicode" * (texts != (path, label))
        labelled.append((*texts, given, note, problem))
    table = pd.DataFrame(labelled, columns=["path", "label", "split", "note", "problem"])
    return table.sort_values("path", ignore_index=True), found.said[0]


def as_unicode(text: str) -> str:
    """Replace what no Unicode text can hold, as in a file's name that isn't UTF-8."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def measure(source: str | bytes) -> dict[str, Any]:
    """Open an image, its path or encoded bytes, and measure it.

    Returns:
        digest: SHA-256 of the pixels.
        height, width: In pixels.
        contrast: Standard deviation of the pixels, 0 to 127.5, in the strongest of red, green and blue.
        grey: Which part of that contrast remains in grey.
        lines: How many lines of text there seem to be, 1 or 2.
        detail: Why it can't be opened, else empty; all else is empty or 0 then.
    """
    try:
        pixels = open_image(source, channels=3)
    except ImageError as error:
        sizes = {"height": 0, "width": 0, "contrast": 0.0, "grey": 0.0, "lines": 0}
        return {"digest": "", **sizes, "detail": str(error)}
    contrast = max(band.std(dtype=np.float32) for band in np.moveaxis(pixels, 2, 0))
    return {
        "digest": hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest(),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "contrast": contrast,
        "grey": np.asarray(Image.fromarray(pixels).convert("L")).std(dtype=np.float32) / max(contrast, 1e-9),
        "lines": 1 + has_two_lines(pixels),
        "detail": "",
    }


def measure_all(paths: list[str]) -> list[dict[str, Any]]:
    """Measure images. Threads measure large ones, but only read small ones, over which they would queue."""

    def begin(path: str) -> bytes | dict[str, Any]:
        with suppress(OSError, ValueError):  # `measure` says what is wrong
            status = Path(path).stat()
            if stat.S_ISREG(status.st_mode) and status.st_size <= SMALL_BYTES:
                return Path(path).read_bytes()
        return measure(path)

    measured = []
    bar = tqdm(total=len(paths), desc="Looking at images", mininterval=1, delay=5)
    with ThreadPoolExecutor() as pool, bar:
        for start in range(0, len(paths), 64):
            for found in pool.map(begin, paths[start : start + 64]):
                measured.append(measure(found) if isinstance(found, bytes) else found)
                bar.update()
    return measured


def choose_shape(table: pd.DataFrame, colour: bool | None, lines: int = 1) -> Shape:
    """Choose the input's shape for a table of images with `label` and what `measure` gives.

    Images are scaled to the input's height and stretched by half, or further where labels are so long that
    frames would be few. The input is wide enough for nearly all of them, up to `MAX_WIDTH`. Colour is kept
    where grey would lose the text, unless `colour` says what to do.
    """
    heights, widths = Shape(0, 0, 1, 1, lines).line_size(table["height"], table["width"])
    natural = widths / heights * ROWS
    crowding = FRAMES_PER_CHARACTER * STRIDE * table["label"].map(frames_needed).astype(int) / natural
    # Not the largest: one wrong label or one banner is not to make the input large for all.
    stretch = float(np.clip(crowding.quantile(0.98, interpolation="lower"), MIN_STRETCH, MAX_STRETCH))
    columns = min((natural * stretch).quantile(0.98, interpolation="lower"), MAX_WIDTH)
    if colour is None:
        colour = (table["grey"] < 0.3).mean() > 0.02
    return Shape(ROWS, STRIDE * math.ceil(columns / STRIDE - 1e-6), 3 if colour else 1, stretch, lines)


def scan(
    folder: Path,
    pattern: str,
    ignore_case: bool = False,
    colour: bool | None = None,
    label_from: str | Path | None = None,
    lines: int = 1,
) -> tuple[pd.DataFrame, pd.DataFrame, Shape]:
    """Make the table of images to work with, and say where labels come from (`find_labels`).

    Args:
        folder: Holds the images, in folders below it too.
        pattern: Regular expression whose group is the label in a file's name without its suffix.
        ignore_case: Whether all labels are taken as small letters.
        colour: Whether images are read in colour; None looks at them.
        label_from: "name", "folder" or the path of a list; None finds out.
        lines: Of text in each image, 1 or 2.

    Returns:
        The images, with `path`, `label`, `split`, `note` and what `measure` gives but `detail`; the files
        that are rejected, with `path`, `label`, `problem` and `detail`, which may be empty; the shape of the
        network's input.

    Raises:
        DatasetError: If fewer than 10 images with a label remain, or only one label, or the labels can't be
            read.
        ValueError: If an argument has another value.
    """
    if type(ignore_case) is not bool or type(colour) not in (bool, type(None)):
        raise ValueError(
            f"Set IGNORE_CASE ({ignore_case!r}) to True or False, COLOUR ({colour!r}) to True, False or None."
        )
    if type(lines) is not int or lines not in (1, 2):
        raise ValueError(f"LINES is {lines!r}; set it to 1 or 2, or cut the images into lines.")
    table, origin = read_labels(folder, pattern, ignore_case, label_from)
    unopened = table[table["problem"] != ""].assign(detail="")
    table = table[table["problem"] == ""].reset_index(drop=True)
    table = table.join(pd.DataFrame(measure_all(list(table["path"]))))

    def reject(bad: pd.Series, problem: str) -> None:
        bad = bad.reindex(table.index, fill_value=False)
        table.loc[bad & (table["problem"] == ""), "problem"] = problem

    def usable() -> pd.DataFrame:
        return table[table["problem"] == ""]

    reject(table["detail"] != "", "unreadable")
    reject(table["label"] == "", "no label")
    reject(table["contrast"] < MIN_CONTRAST, "nearly blank")
    # Of copies, those of the test split count first; those that a network labelled don't beside others.
    ranks = {"test": 0, "validation": 1}
    by_person = table["digest"].isin(usable().query("split != 'model'")["digest"])
    reject((table["split"] == "model") & by_person, "duplicate file")
    unclear = usable().groupby("digest")["label"].transform("nunique") > 1
    reject(unclear, "same image with different labels")
    in_order = usable().sort_values("split", key=lambda split: split.map(ranks).fillna(2), kind="stable")
    reject(in_order.duplicated("digest"), "duplicate file")
    kept = usable()
    if lines == 2 and (turned := next((label for label in kept["label"] if reorder(label) != label), "")):
        raise DatasetError(
            f"LINES can't be 2, for the label {turned!r} runs from right to left: cut the images into lines."
        )
    shape = choose_shape(kept, colour, lines) if len(kept) else Shape(0, 0, 1, 1)
    heights, widths = shape.line_size(kept["height"], kept["width"])
    columns = (widths / heights * shape.height * shape.stretch).clip(upper=shape.width)
    reject(kept["label"].map(frames_needed).astype(int) > columns // STRIDE, "label too long for the width")
    kept = usable()
    table["detail"] = table["detail"].where(table["problem"] == "unreadable", "")
    rejected = pd.concat([unopened, table[table["problem"] != ""]])[["path", "label", "problem", "detail"]]
    if len(kept) < MIN_IMAGES:
        raise DatasetError(
            f"Only {len(kept)} of {len(table) + len(unopened)} files in {folder} are images with a usable "
            f"label; at least {MIN_IMAGES} are needed. "
            f"Rejected: {rejected['problem'].value_counts().to_dict()}. {origin}"
        )
    if kept["label"].nunique() == 1:
        raise DatasetError(
            f"All {len(kept)} images have the label {kept['label'].iloc[0]!r}, so there is nothing to tell "
            f"apart. {origin} Check LABEL_FROM and LABEL_PATTERN."
        )
    return kept.drop(columns=["problem", "detail"]).reset_index(drop=True), rejected, shape


def split(
    table: pd.DataFrame, seed: int, fold: int | None, labels: int | None, split_by: str
) -> dict[str, pd.DataFrame]:
    """Split a table of images into disjoint parts, in an order that depends on nothing but the seed.

    Args:
        table: Has the column `label`, and maybe `split`: images for "validation" or "test" there are all of
            that split, unless `fold` or `split_by` asks for something else, or all have one. Images
            for "model", whose labels a network gave, are only trained with, whatever `labels` is, or left out
            where `split_by` puts their label elsewhere.
        seed: Of the shuffle.
        fold: Which of ten test splits to take, 0 to 9; None takes the test split that is given, else 0.
        labels: How many images go to training and validation together, a ninth of them to validation;
            the rest is test, or left out where that is given. None takes all.
        split_by: "image", or "label" to keep images of one label together; sizes are approximate then.

    Returns:
        The splits "train", "validation" and "test".

    Raises:
        ValueError: If an argument is out of range, or a split would be empty.
    """
    if split_by not in ("image", "label"):
        raise ValueError(f'SPLIT_BY is {split_by!r}; set it to "image" or "label".')
    if fold not in (None, *range(10)):
        raise ValueError(f"FOLD is {fold!r}; set it to None or a number from 0 to 9.")
    given = pd.Series(table.get("split", ""), table.index)
    is_guess = given == "model"
    given = given.where(given.isin(["validation", "test"]), "")
    if fold is not None or split_by == "label" or (given != "").all():
        given[:] = ""
    given[is_guess] = "train"
    has_validation, has_test = (given == "validation").any(), (given == "test").any()
    groups = table["label"] if split_by == "label" else pd.Series(table.index, table.index)
    sizes = groups[given == ""].value_counts(sort=False)
    shuffled = np.random.default_rng(seed).permutation(np.sort(sizes.index.to_numpy()))
    folds = np.array_split(shuffled, 10)
    test_fold = [] if has_test else folds.pop(fold or 0)
    others = np.concatenate(folds)
    most = sizes[others].sum()
    if labels is not None and not (isinstance(labels, int) and 0 < labels <= most):
        raise ValueError(f"LABELS is {labels!r}; set it to None or a number from 1 to {most}.")
    # How many images come before each group.
    before = pd.Series(sizes[others].cumsum() - sizes[others], others)
    limit = most if labels is None else labels
    is_validation = (before < limit / 9) & ~has_validation
    names = np.select([is_validation, before < limit], ["validation", "train"], "" if has_test else "test")
    split_of = dict(zip(others, names, strict=True)) | dict.fromkeys(test_fold, "test")
    drawn = groups.map(split_of)
    names = given.where(given != "", drawn)
    names[is_guess & drawn.isin(["validation", "test"])] = ""  # for its label is there
    splits = {name: table[names == name] for name in ("train", "validation", "test")}
    if empty := [name for name, rows in splits.items() if rows.empty]:
        raise ValueError(
            f"No images for {' and '.join(empty)}; use more images, more different labels if "
            "SPLIT_BY is label, or change LABELS."
        )
    return splits


def digest(table: pd.DataFrame) -> str:
    """Return the SHA-256 of the labels, images and given splits of a table, in its order."""
    identity = table.reindex(columns=["label", "digest", "split"])
    return hashlib.sha256(identity.to_json(orient="values").encode()).hexdigest()


def find_alphabet(labels: Iterable[str]) -> list[str]:
    """Sort the characters of labels; brackets among right-to-left letters come with their mirror images."""
    found = set("".join(labels))
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in found):
        found |= {reorder(f"א{character}א")[1] for character in found if unicodedata.mirrored(character)}
    return sorted(found)


def encode(labels: list[str], char_to_num: dict[str, int], max_length: int) -> np.ndarray:
    """Encode labels from left to right as int32 (labels, max_length), padded with `BLANK`."""
    label_ids = np.full((len(labels), max_length), BLANK, np.int32)
    for row, label in enumerate(labels):
        label_ids[row, : len(label)] = [char_to_num[character] for character in reorder(label)]
    return label_ids

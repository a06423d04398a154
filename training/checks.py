"""What may be wrong with the data: before training, and after one that failed."""

from collections import Counter
from pathlib import Path

import pandas as pd
from decoding import reorder
from network import Shape

from training.labels import are_counters
from training.writing import find_look_alikes

LEAST_ROWS = 16  # of the input that an image should fill
FEW_READ = 0.1  # of the validation split: with less, the training failed
OFTEN = 0.3  # of the images: with more, something may be why
LEAST_EPOCHS = 4  # of a run whose EPOCHS is None
FEW_LABELS = 100  # from which a network learns little


def check(rejected: pd.DataFrame, splits: dict[str, pd.DataFrame], shape: Shape) -> pd.DataFrame:
    """List what may be wrong with the data.

    Args:
        rejected: What `data.scan` gives.
        splits: What `data.split` gives.
        shape: Of the network's input.

    Returns:
        One row per problem, indexed by its name: whether the images are rejected or kept, the number of
        files, three examples. If there is no problem, one row says so.
    """
    rows = []
    for row in rejected.itertuples():
        detail = f" ({row.detail})" if row.detail else ""
        rows.append((row.problem, "rejected", Path(row.path).name + detail))
    table = pd.concat(splits.values())
    counts = Counter("".join(table["label"]))
    learnt = set("".join(splits["train"]["label"]))
    look_alikes = find_look_alikes(set(counts))
    for row in table.itertuples():
        height, width = shape.line_size(row.height, row.width)
        is_tall, fitted_rows = is_turned(row, shape), shape.fitted_size(height, width)[0]
        problems = {
            row.note: bool(row.note),
            "text too small, because the image is so wide": fitted_rows < min(LEAST_ROWS, height),
            "taller than wide": is_tall,
            "two lines of text": row.lines > shape.lines and not is_tall,
            "mixed text directions: the reading order is ambiguous": reorder(reorder(row.label)) != row.label,
        }
        for character in sorted(set(row.label)):
            problems[look_alikes.get(character, "")] = character in look_alikes
            if counts[character] == 1:
                problems[f"{character!r} occurs only once"] = True
            elif character not in learnt:
                problems[f"{character!r} is in no training image"] = True
        rows += [(problem, "kept", Path(row.path).name) for problem, is_true in problems.items() if is_true]
    if not rows:
        rows = [("no problem found", "kept", Path(path).name) for path in table["path"]]
    return (
        pd.DataFrame(rows, columns=["problem", "images are", "example"])
        .groupby(["problem", "images are"])["example"]
        .agg(files="size", examples=lambda names: ", ".join(names.head(3)))
        .sort_values("files", ascending=False)
        .reset_index("images are")
    )


def is_turned(row: object, shape: Shape) -> bool:
    """Tell whether the text of a row's image is taller than wide, though its label is no single letter."""
    height, width = shape.line_size(row.height, row.width)
    return height > width and len(row.label) > 1


def find_causes(
    splits: dict[str, pd.DataFrame],
    shape: Shape,
    validation: pd.DataFrame,
    learnt: pd.DataFrame,
    epochs: int,
) -> list[str]:
    """Test the usual causes where almost nothing of the validation split is read.

    Args:
        splits: What `data.split` gives.
        shape: Of the network's input.
        validation, learnt: What `evaluation.predict` gives for the validation and the training split.
        epochs: For how many the network was trained on labelled images.

    Returns:
        A sentence for each cause that fits, and what to do; nothing where more is read.
    """
    if validation["right"].mean() >= FEW_READ:
        return []
    table = pd.concat(splits.values())
    labels, count = table["label"], len(splits["train"])
    two_lines = (table["lines"] == 2).mean()
    turned = sum(is_turned(row, shape) for row in table.itertuples()) / len(table)
    look_alikes = find_look_alikes(set("".join(labels)))
    mixed = labels.map(lambda label: not look_alikes.keys().isdisjoint(label)).mean()
    backwards = labels.map(lambda label: reorder(label) != label).mean()
    knows = learnt["right"].mean()
    causes = {
        f"It was trained for only {epochs} epochs: set EPOCHS to None.": epochs < LEAST_EPOCHS,
        f"{turned:.0%} of the images are taller than wide: turn them, or cut them into lines.": turned
        > OFTEN,
        f"{two_lines:.0%} of the images seem to contain two lines of text: set LINES to 2.": (
            two_lines > OFTEN and shape.lines == 1 and turned <= OFTEN
        ),
        f"LINES is 2, but only {two_lines:.0%} of the images seem to contain two lines: set it to 1.": (
            two_lines < OFTEN and shape.lines == 2
        ),
        f"{mixed:.0%} of the labels contain letters of one script that look like those of another: use "
        "one script.": mixed > OFTEN,
        "The labels look like serial numbers: check LABEL_FROM, LABEL_PATTERN.": are_counters(list(labels)),
        f"There are only {labels.nunique()} different labels: check that they are the texts in the images.": (
            labels.nunique() < len(labels) / 10
        ),
        f"There are only {count} images to train with: label {FEW_LABELS} or more.": count < FEW_LABELS,
        f"{knows:.0%} of the training images are read correctly, but almost no validation images: the "
        "network overfits, which happens with few images or wrong labels.": knows > 1 - OFTEN,
    }
    found = [cause for cause, is_true in causes.items() if is_true]
    if not found and backwards > OFTEN:
        return [
            f"{backwards:.0%} of the labels run from right to left: each must begin with the letter that is "
            "read first, as it is typed."
        ]
    return found or ["None of the usual causes fits. Look at the misread images in the notebook."]

"""Every data set with few labels and with many: exact match on all other images.

`python benchmarks/labels.py` runs the notebook with no other parameters than the data set, its pattern, its
lines and the split, for five draws of each number of labelled images. After each run it writes `labels.json`
and `docs/images/labels.png`. It keeps the rows of an earlier run of the same code, and goes on after them.
It measures times, so the machine must do nothing else.
"""

import re
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from drawn_sets import draw_missing
from runs import ARCHIVE, ROOT, WORK, run, run_folder, write, written

SEEDS = (1, 2, 3, 4, 5)
WORDS = {"DATASET": str(ARCHIVE.with_name("words-200x60.zip")), "LABEL_PATTERN": ".*_(.+)"}
SETS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {  # with the numbers of labelled images
    "CAPTCHA Images v2": ({}, (10, 25, 50, 100, 800)),
    "four of 32 characters": ({"DATASET": str(ARCHIVE.with_name("worqhat-72x24.zip"))}, (25, 100, 1600)),
    "four digits": ({"DATASET": str(ARCHIVE.with_name("captcha-ruankao.zip"))}, (25, 100, 704)),
    "photographed number plates": ({"DATASET": str(ARCHIVE.with_name("plates-mixed.zip"))}, (50, 100, 237)),
    "words and lines of receipts": ({"DATASET": str(ARCHIVE.with_name("receipts.zip"))}, (80, 320, 1280)),
    "lines of books, 1476 to 1509": ({"DATASET": str(ARCHIVE.with_name("oldprint.zip"))}, (50, 100, 287)),
    "words, many unreadable": (WORDS, (160, 640)),
    "the same, words never seen": (WORDS | {"SPLIT_BY": "label"}, (160, 640)),
    "drawn lines, 1 to 12 characters": ({"DATASET": str(WORK / "lines")}, (50, 200, 800)),
    "drawn plates with two lines": ({"DATASET": str(WORK / "plates"), "LINES": 2}, (50, 100)),
    "drawn words in Hebrew": ({"DATASET": str(WORK / "hebrew")}, (50, 100)),
}


def run_name(name: str, size: int, seed: int) -> str:
    """Name the folder of a run on a set of `SETS` with so many labels."""
    return re.sub(r"\W+", "-", f"{name} {size} labels seed {seed}")


def run_with(name: str, size: int, seed: int) -> dict[str, Any]:
    """Run the notebook on a set of `SETS` with so many labels, or take the results of an earlier run."""
    return run(run_name(name, size, seed), **SETS[name][0], LABELS=size, SEED=seed)


def main() -> None:
    """Run all draws that `labels.json` lacks, and draw the curves."""
    draw_missing(WORK)
    code = run_folder("").name
    earlier = written("labels")
    keys = [(name, size) for name, (_, sizes) in SETS.items() for size in sizes]
    rows = {(name, size): {"set": name, "labels": size} for name, size in keys}
    if earlier.get("code") == code:
        rows |= {(row["set"], row["labels"]): row for row in earlier["rows"]}
    for draw, seed in enumerate(SEEDS):
        for (name, size), row in rows.items():
            if len(row.get("test", [])) > draw:
                continue
            result = run_with(name, size, seed)
            for key, value in measured(result).items():
                row.setdefault(key, []).append(value)
            match = result["metrics"]["exact_match"]
            print(f"draw {seed}, {name}, {size} labels: exact match {match:.2%}", flush=True)
            some = [row for row in rows.values() if "test" in row]
            write("labels", {"code": code, "rows": some})
            draw_curves(some)


def measured(result: dict[str, Any]) -> dict[str, Any]:
    """Take what is compared from the results of a run."""
    metrics = ("exact_match", "cer", "sure", "sure_and_right")
    return {
        "test": result["split"]["test"],
        **{metric: result["metrics"][metric] for metric in metrics},
        "before": result["start"]["val_exact_match"],
        "seconds": result["notebook_seconds"],
    }


def draw_curves(rows: list[dict[str, Any]]) -> None:
    """Draw a curve for each set through the medians, with a dot for each draw."""
    figure, axes = plt.subplots(3, 4, figsize=(13, 8), sharey=True, layout="constrained")
    for axis, name in zip(axes.flat, SETS, strict=False):
        own = [row for row in rows if row["set"] == name]
        sizes = [row["labels"] for row in own]
        axis.plot(sizes, [100 * np.median(row["exact_match"]) for row in own], "o-")
        for row in own:
            axis.plot([row["labels"]] * len(row["exact_match"]), 100 * np.array(row["exact_match"]), "k.")
        axis.set(title=name, xscale="log", ylim=(-3, 103))
        axis.set_xticks(sizes, map(str, sizes))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(SETS) :]:
        axis.axis("off")
    figure.supxlabel("labelled images, for training and validation")
    figure.supylabel("exact match on the other images, %")
    figure.savefig(ROOT / "docs" / "images" / "labels.png", dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()

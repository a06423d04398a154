"""Model selection: a grid over architectures and their settings, then the best of each with the whole recipe.

`python benchmarks/model_selection.py` runs the notebook briefly, from random weights, for half of all
combinations, in which each pair of settings occurs once. Then the shipped network and the best one of another
architecture, by validation loss, have the whole recipe, with three seeds, with all labels and with 100. It
goes on where it stopped, and writes `model_selection.json` and `docs/images/model_selection.png`, which
`docs/model_selection.md` shows.
"""

import time
from operator import itemgetter
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import runs
from folders import find_images
from ocr import Recognizer
from papermill.exceptions import PapermillExecutionError

from training.evaluation import wilson_interval

ARCHITECTURES = ("bilstm", "cnn", "attention", "pretrained")
SETTINGS = [  # size, peak learning rate, augmentation: a half fraction of all eight combinations
    (1.0, 2e-3, 0.5),
    (1.0, 4e-3, 1.0),
    (1.5, 2e-3, 1.0),
    (1.5, 4e-3, 0.5),
]
BRIEF = {"START": "random", "EPOCHS": 10, "BATCH_SIZE": 16}
SEEDS = (1, 2, 3)
GOAL = 0.99


def describe(results: dict[str, Any]) -> dict[str, Any]:
    """Take what the comparison needs out of a run's results; matches and CER are of the validation split."""
    metrics, count = results["metrics"], results["split"]["validation"]
    match = metrics["val_exact_match"]
    low, high = wilson_interval(round(match * count), count)
    seconds = np.cumsum(results["history"]["seconds"])
    reached = [s for s, m in zip(seconds, results["history"]["val_exact_match"], strict=True) if m >= GOAL]
    return {
        "architecture": results["architecture"],
        "size": results["size"],
        "learning_rate": results["learning_rate"],
        "augmentation": results["augmentation"],
        "loss": metrics["loss"],
        "val_loss": metrics["val_loss"],
        "exact_match": match,
        "low": low,
        "high": high,
        "cer": metrics["val_cer"],
        "parameters": results["parameters"],
        "seconds": round(float(reached[0]), 1) if reached else None,
    }


def time_reading(folders: list[Path]) -> list[float]:
    """Measure the models in turns: milliseconds per image, median of five rounds over an app's examples."""
    recognizers = [Recognizer(folder) for folder in folders]
    images = [path.read_bytes() for path in find_images(runs.ROOT / "demo_app" / "Examples")[0]]
    times = [[] for _ in folders]
    for _ in range(6):
        for recognizer, own in zip(recognizers, times, strict=True):
            start = time.perf_counter()
            for image in images:
                recognizer.read(image)
            own.append(1000 * (time.perf_counter() - start) / len(images))
    return [float(np.median(own[1:])) for own in times]  # the first round warms up


def draw(finalists: list[dict[str, Any]]) -> None:
    """Draw exact match over milliseconds per image; a dot's area stands for the parameters."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharex=True, sharey=True)
    for axis, labels in zip(axes, ("all", "100"), strict=True):
        for row in (row for row in finalists if row["labels"] == labels):
            place = row["milliseconds"], 100 * row["test_exact_match"]
            axis.scatter(*place, s=row["parameters"] / 500, alpha=0.5)
            beside = {"xytext": (18, 0), "textcoords": "offset points", "va": "center"}
            axis.annotate(row["architecture"], place, **beside)
        axis.set(
            title=f"{labels} labels", xlabel="milliseconds per image", ylabel="exact match, test splits, %"
        )
        axis.margins(0.3)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(runs.ROOT / "docs" / "images" / "model_selection.png", dpi=120)


def main() -> None:
    """Run the grid and the finalists."""
    study = runs.notebook_functions()
    screening, missing = [], {}
    for architecture in ARCHITECTURES:
        for size, rate, augmentation in SETTINGS:
            name = f"grid-{architecture}-{size}-{rate}-{augmentation}"
            settings = {"SIZE": size, "LEARNING_RATE": rate, "AUGMENTATION": augmentation}
            try:
                results = runs.run(name, ARCHITECTURE=architecture, **settings, **BRIEF)
            except PapermillExecutionError as error:
                if error.ename != "ConnectionError":
                    raise
                missing[architecture] = "its weights could not be downloaded"
                print(f"{architecture}: {missing[architecture]}", flush=True)
                break
            screening.append(describe(results))
            print(screening[-1], flush=True)
    finalists, folders = [], []
    keys = ("architecture", "size", "learning_rate", "augmentation")
    others = (row for row in screening if row["architecture"] != study.ARCHITECTURE)
    for best in ({key: getattr(study, key.upper()) for key in keys}, min(others, key=itemgetter("val_loss"))):
        architecture = best["architecture"]
        settings = {key.upper(): best[key] for key in keys}
        for labels in (None, 100):
            name = f"final-{architecture}-{labels}"
            seeds = [runs.run(f"{name}-{seed}", SEED=seed, LABELS=labels, **settings) for seed in SEEDS]
            rows = [describe(results) for results in seeds]
            pooled = rows[0] | {
                key: float(np.mean([row[key] for row in rows]))
                for key in ("loss", "val_loss", "exact_match", "cer")
            }
            count = sum(results["split"]["validation"] for results in seeds)
            pooled["low"], pooled["high"] = wilson_interval(round(pooled["exact_match"] * count), count)
            median = float(np.median([row["seconds"] or np.inf for row in rows]))
            pooled["seconds"] = median if np.isfinite(median) else None
            pooled["test_exact_match"] = float(np.mean([r["metrics"]["exact_match"] for r in seeds]))
            finalists.append({"labels": "all" if labels is None else str(labels)} | pooled)
            folders.append(runs.run_folder(f"{name}-{SEEDS[0]}") / "app")
            print(finalists[-1], flush=True)
    for row, milliseconds in zip(finalists, time_reading(folders), strict=True):
        row["milliseconds"] = milliseconds
    content = {"brief": BRIEF, "screening": screening, "finalists": finalists, "missing": missing}
    runs.write("model_selection", content)
    draw(finalists)


if __name__ == "__main__":
    main()

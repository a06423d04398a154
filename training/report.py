"""The facts of a run, put together once: `results.json`, the model's `about.json`, the summary table."""

import html
import math
import os
import platform
from datetime import date
from importlib.metadata import version
from typing import Any

import keras
import pandas as pd
import tensorflow as tf
from network import Shape
from ocr import ABOUT, VERSION, Recognizer


def collect(
    settings: dict[str, Any],
    source: str,
    table: pd.DataFrame,
    rejected: pd.DataFrame,
    shape: Shape,
    splits: dict[str, pd.DataFrame],
    characters: list[str],
    lengths: list[int],
    model: keras.Model,
    history: pd.DataFrame,
    start: dict[str, Any],
    calibration: dict[str, float | None],
    metrics: dict[str, Any],
) -> dict[str, Any]:
    """Put together all facts of a run that `results.json` tells.

    Args:
        settings: The notebook's parameters that make a difference to the model, in small letters.
        source: Name of the data set that was used.
        table: Of the images.
        rejected: Files with the `problem` for which they were rejected.
        shape: Of the network's input.
        splits: What `split` gives.
        characters: The alphabet.
        lengths: Of the shortest and of the longest training label.
        model: The network.
        history: One row per epoch, `kept` where it was left in the model.
        start: "name", "layers", how many were taken, and "val_exact_match", before the first label.
        calibration: "temperature" and "threshold".
        metrics: Of the test split, with losses and those of the validation split.
    """
    return {
        "dataset": source,
        "date": date.today().isoformat(),
        "images": len(table),
        "rejected": rejected["problem"].value_counts().to_dict(),
        "alphabet": "".join(characters),
        "lengths": lengths,
        "shape": shape._asdict(),
        "split": {name: len(rows) for name, rows in splits.items()},
        **settings,
        "epochs": len(history),
        "kept_epoch": int(history.loc[history["kept"], "epoch"].iloc[-1]) + 1,
        "seconds": round(float(history["seconds"].sum()), 1),
        "start": start,
        "parameters": model.count_params(),
        **calibration,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": versions(),
        "metrics": metrics,
        # JSON has no number for the loss of an epoch that diverged.
        "history": history.round(4).replace([math.inf, math.nan], None).to_dict("list"),
    }


def versions() -> dict[str, str]:
    """Return the versions of CustomOCR, Python and the packages on which the results depend most."""
    python, tensorflow = platform.python_version(), tf.__version__  # whose package has two names
    return {"CustomOCR": VERSION, "python": python, "tensorflow": tensorflow} | {
        name: version(name) for name in ("keras", "numpy", "pandas", "pillow")
    }


def describe_model(results: dict[str, Any]) -> dict[str, Any]:
    """Choose what travels with the model as `about.json`."""
    known = results | results["metrics"]
    return {name: known[name] for name in ABOUT}


def summarise(results: dict[str, Any]) -> str:
    """Make the summary as a Markdown table."""
    metrics, split = results["metrics"], results["split"]
    low, high = metrics["exact_match_interval"]
    right = split["test"] - len(metrics["misread"])
    alphabet = html.escape(results["alphabet"]).replace("|", "&#124;")
    shown = f": <code>{alphabet}</code>" if len(results["alphabet"]) <= 80 else ""
    losses = ", ".join(f"{metrics[name]:.4f}" for name in ("loss", "val_loss", "test_loss"))
    start = results["start"]
    before = f"`{start['name']}`; alone, they read {start['val_exact_match']:.1%} of the validation split"
    if results["start_from"]:
        before += "; what they were trained on may include images of this test split"
    rejected = ", ".join(f"{count:,} × {problem}" for problem, count in results["rejected"].items())
    rows = {
        "data set": f"{results['dataset']}: {results['images']:,} images; left out: {rejected or 'none'}",
        "alphabet": f"{len(results['alphabet'])} characters{shown}",
        "split": ", ".join(f"{count} {name}" for name, count in split.items()),
        "exact match on the test split": f"{metrics['exact_match']:.2%}: {right} of {split['test']}, "
        f"95% interval {low:.1%} to {high:.1%}",
        "character error rate (CER)": f"{metrics['cer']:.2%}",
        "CTC loss: training (augmented), validation, test": losses,
        "training on labelled images": f"{results['epochs']} epochs in {results['seconds']:.0f} s on "
        f"{results['machine']}",
        "starting weights": before,
        "network": f"{results['parameters']:,} parameters, `ocr_model` {results['model_bytes'] / 1e6:.2f} MB",
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])


def conclude(results: dict[str, Any], recognizer: Recognizer) -> str:
    """Say in a few words how good the model is, where it lies and how to serve it."""
    count, wrong = results["split"]["test"], len(results["metrics"]["misread"])
    verdict = f"The model reads {count - wrong:,} of {count:,} test images without a mistake."
    if recognizer.reads_badly:
        verdict = f"This model reads badly: {count - wrong:,} of {count:,} test images without a mistake."
    here = recognizer.folder
    serve = f"`pip install -r {here}/requirements.txt`, then `python {here}/app.py` serves it"
    if not (here / "app.py").exists():
        serve = "to serve it, copy it into a copy of demo_app and run app.py there"
    return f"{verdict} It is in {here}; {serve}."

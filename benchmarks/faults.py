"""Faults while training: a run that is killed twenty times against runs that are not.

`python benchmarks/faults.py` runs the notebook on the default data set, kills it with SIGKILL at random
moments, while a checkpoint is written and while the model is exported, starts it again each time, and
reads an image with the app's folder in between. It compares epochs and exact match with those of whole runs,
two of which have the same seed, prints and writes `faults.json`.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import runs
from folders import find_images
from ocr import Recognizer

KILLS = ["at random"] * 10 + ["in a checkpoint"] * 5 + ["in the export"] * 5
FOLDER = runs.WORK / "faults"
COMMAND = [
    *(
        sys.executable,
        "-m",
        "papermill",
        "--no-progress-bar",
        str(runs.ROOT / "study.ipynb"),
        str(FOLDER / "out.ipynb"),
    ),
    *("-p", "DATASET", runs.DATASET, "-p", "OUTPUT", str(FOLDER / "app")),
    *("-p", "REPORT", str(FOLDER / "report"), "-p", "WORK", str(FOLDER / "work")),
]


def newest(pattern: str) -> float:
    """Return when the newest file below `FOLDER` that fits was changed, in seconds; 0 without any."""
    times = [0.0]
    for path in FOLDER.glob(pattern):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:
            continue  # it was replaced in between
    return max(times)


def start_and_kill(moment: str, rng: np.random.Generator) -> bool:
    """Start the run and kill it at a moment; return whether it was still running then, not at its end."""
    watched = {"in a checkpoint": "work/runs/*/backup/**/*", "in the export": "app/*_export/**/*"}.get(moment)
    before = newest(watched) if watched else 0.0
    with (FOLDER / "run.log").open("a") as log:
        process = subprocess.Popen(COMMAND, stdout=log, stderr=log, cwd=runs.ROOT, start_new_session=True)
    if watched:
        while process.poll() is None and newest(watched) == before:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.2))
    else:
        time.sleep(rng.uniform(10, 60))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait() < 0


def runs_that_ended() -> list[Path]:
    """Find the folders of ended runs: they have no backup any more."""
    return [run for run in FOLDER.glob("work/runs/*") if not (run / "backup").exists()]


def main() -> None:
    """Run, kill, compare."""
    whole = [runs.run(f"whole-{number}", SEED=seed) for number, seed in enumerate((42, 42, 1, 2))]
    rng = np.random.default_rng(0)
    shutil.rmtree(FOLDER, ignore_errors=True)
    shutil.copytree(runs.ROOT / "demo_app", FOLDER / "app", ignore=shutil.ignore_patterns("__pycache__"))
    (FOLDER / "work").mkdir()
    for name in ("runs", "data"):  # what is drawn and fetched need not be done again
        shutil.copytree(runs.run_folder("work") / name, FOLDER / "work" / name)
    for run in runs_that_ended():
        shutil.rmtree(run)
    example = find_images(runs.ROOT / "demo_app" / "Examples")[0][0]
    kills = []
    for moment in KILLS:
        while not start_and_kill(moment, rng):
            print("The run came to its end before; it starts anew.", flush=True)
        text = Recognizer(FOLDER / "app").read(example).text
        kills.append({"moment": moment, "app_reads": text == example.stem})
        print(kills[-1], flush=True)
    subprocess.run(COMMAND, check=True, cwd=runs.ROOT, capture_output=True)
    results = pd.read_json(FOLDER / "report" / "results.json", typ="series")
    (run,) = runs_that_ended()
    matches = [results["metrics"]["exact_match"] for results in whole]
    content = {
        "kills": kills,
        "epochs": int(pd.read_csv(run / "log.csv")["epoch"].nunique()),
        "exact_match": results["metrics"]["exact_match"],
        "whole_runs": matches,
        "whole_runs_epochs": [results["epochs"] for results in whole],
        "same_seed_same_texts": whole[0]["metrics"]["misread"] == whole[1]["metrics"]["misread"],
        "same_seed_confidences": [results["metrics"]["mean_confidence"] for results in whole[:2]],
    }
    for name, value in content.items():
        print(name, value)
    runs.write("faults", content)


if __name__ == "__main__":
    main()

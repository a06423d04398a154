"""Two machines, here two processes, that train together: one is killed, both go on.

`python benchmarks/machines.py` runs the notebook on both, kills the one that isn't the chief after five
epochs, starts both again with the same parameters, and writes `machines.json`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
from runs import DATASET, ROOT, WORK, cluster, write

FOLDER = WORK / "machines"
KILL_AFTER = 5  # epochs


def start() -> list[subprocess.Popen]:
    """Start the notebook on both machines, each on one core."""
    folders = {"OUTPUT": FOLDER / "app", "REPORT": FOLDER / "report", "WORK": FOLDER / "work"}
    parameters = [
        part for item in {"DATASET": DATASET, **folders}.items() for part in ("-p", *map(str, item))
    ]
    machines = []
    for index, place in enumerate(cluster(2)):
        environment = os.environ | place | {"TF_NUM_INTRAOP_THREADS": "1"}
        command = [
            sys.executable,
            "-m",
            "papermill",
            "--log-output",
            "--no-progress-bar",
            "study.ipynb",
            f"{FOLDER}/{index}.ipynb",
        ]
        with (FOLDER / f"{index}.log").open("w") as log:
            machines.append(
                subprocess.Popen(command + parameters, cwd=ROOT, env=environment, stdout=log, stderr=log)
            )
    return machines


def epochs_done() -> int:
    """Count the epochs."""
    logs = [log for log in (FOLDER / "work" / "runs").glob("*/log.csv") if log.stat().st_size]
    return max((len(pd.read_csv(log)) for log in logs), default=0)


def main() -> None:
    """Run, kill, run again, write."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    chief, other = start()
    while epochs_done() < KILL_AFTER and chief.poll() is None:
        time.sleep(0.1)
    for process in (*psutil.Process(other.pid).children(recursive=True), other):  # the notebook's kernel, too
        process.kill()
    killed = time.perf_counter()
    assert chief.wait(timeout=120) != 0
    noticed = time.perf_counter() - killed
    said = re.findall(r"^ConnectionError: (.+)", Path(FOLDER, "0.log").read_text(), re.MULTILINE)[-1]
    other.wait()
    before = epochs_done()
    print(f"killed after {before} epochs; the chief ended {noticed:.0f} s later: {said}")
    chief, other = start()
    assert chief.wait(timeout=1800) == 0
    other.wait()  # papermill calls it an error that this one ends after training
    results = json.loads((FOLDER / "report" / "results.json").read_text())
    print(f"exact match {results['metrics']['exact_match']:.2%} after {results['epochs']} epochs")
    write(
        "machines",
        {
            "epochs_before": before,
            "seconds_until_noticed": noticed,
            "said": said,
            "epochs": results["epochs"],
            "exact_match": results["metrics"]["exact_match"],
            "val_loss": results["metrics"]["val_loss"],
        },
    )


if __name__ == "__main__":
    main()

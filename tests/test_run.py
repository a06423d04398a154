"""The whole notebook, run headless, and what it exports."""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ocr
import pandas as pd
import pytest
from folders import find_images
from gradio_client import Client, handle_file
from runs import ROOT, serve

from training.synthetic import draw_dataset


def test_any_set_of_images_makes_a_reader(short_run):
    """Few images in colour, of mixed sizes and formats, with a list of labels in two scripts."""
    exported = {path.name for path in (short_run / "demo_app").iterdir()}
    assert {"ocr_model", "char_to_num", "num_to_char", "Examples", "app.py", "ocr.py"} <= exported
    assert not {"unfinished_export", "new_export", "old_export"} & exported
    recognizer = ocr.Recognizer(short_run / "demo_app")
    assert set(recognizer.about["alphabet"]) == set("漢é $|012") and recognizer.channels == 3
    readings = recognizer.read_batch(find_images(short_run / "images")[0])
    assert [reading.frames.ndim for reading in readings] == [2] * 20


def test_a_run_writes_all_it_promises(short_run):
    results = json.loads((short_run / "report" / "results.json").read_text(encoding="utf-8"))
    examples = {path.name for path in (short_run / "demo_app" / "Examples").iterdir()}
    assert len(examples) == results["split"]["test"] and sum(results["split"].values()) == 20
    assert examples < {path.name for path in (short_run / "images").iterdir()}
    figures = {path.stem for path in (short_run / "report" / "images").iterdir()}
    named = {"example_data", "architecture", "training_history", "label_errors", "predictions", "reading"}
    assert figures == named
    assert results["dataset"] == "twenty.zip" and results["images"] == 20 and results["epochs"] == 2
    assert results["shape"]["channels"] == 3 and results["start"]["name"] == "random"
    assert 0 <= results["metrics"]["exact_match"] <= 1 and results["metrics"]["test_loss"] > 0
    runs = list((short_run / "work" / "runs").iterdir())
    assert len(runs) == 1 and list(runs[0].rglob("events*"))


def test_the_app_serves_what_the_run_exported(short_run, tmp_path):
    path = next((short_run / "demo_app" / "Examples").iterdir())
    expected = ocr.Recognizer(short_run / "demo_app").read(path)
    with serve(short_run / "demo_app" / "app.py", tmp_path) as address:
        client = Client(address, verbose=False)
        endpoints = client.view_api(return_format="dict")["named_endpoints"]
        assert sorted(endpoints) == ["/predict", "/read_many"]
        answer = client.predict(handle_file(path), api_name="/predict")
        table, file = client.predict([handle_file(path)] * 3, api_name="/read_many")
    assert answer["text"] == expected.text and answer["sure"] == expected.sure
    assert answer["confidence"] == pytest.approx(expected.confidence)
    assert "".join(part["text"] for part in answer["characters"]) == expected.text
    row = [path.name, expected.text, f"{expected.confidence:.4f}", "yes" if expected.sure else "no", ""]
    assert table["data"] == [row] * 3
    with Path(file).open(encoding="utf-8-sig", newline="") as lines:
        assert list(csv.reader(lines)) == [["file", "text", "confidence", "sure", "error"], *[row] * 3]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills a process group")
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    """By the command of `make study`, on synthetic images in the default look."""
    for name in ("training", "demo_app"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "study.ipynb", tmp_path)
    draw_dataset(40, 4, tmp_path / "images")
    parameters = {"DATASET": "images", "START": "random", "EPOCHS": 12, "OUTPUT": "app", "REPORT": "report"}
    parameters |= {"BATCH_SIZE": 4, "SIZE": 0.5}
    options = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", "training.run", *options]

    def epochs():
        """Of the run's log."""
        for log in tmp_path.glob("work/runs/*/log.csv"):
            with contextlib.suppress(pd.errors.EmptyDataError):
                return list(pd.read_csv(log)["epoch"].drop_duplicates())
        return []

    with (tmp_path / "run.log").open("w") as output:
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=output, stderr=output, start_new_session=True
        )
        while process.poll() is None and len(epochs()) < 3:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert 3 <= len(epochs()) < 12, (tmp_path / "run.log").read_text()
    assert not (tmp_path / "app").exists()
    said = subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.PIPE).stdout.decode()
    assert re.search(r"Training resumes after epoch \d+ of 12\.", said)
    assert "epoch   1/" not in said and "epoch  12/12" in said
    assert epochs() == list(range(12))
    assert json.loads((tmp_path / "report" / "results.json").read_text())["epochs"] == 12
    assert ocr.Recognizer(tmp_path / "app").about["split"]["train"] == 32

"""The whole notebook, run headless, and what it exports."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import ocr
import pandas as pd
import papermill
import pytest
from gradio_client import Client, handle_file
from ocr import find_images
from PIL import Image
from runs import ROOT, serve


def test_a_run_writes_all_it_promises(short_run):
    exported = {path.name for path in (short_run / "demo_app").iterdir()}
    assert {"ocr_model", "char_to_num", "num_to_char", "Examples", "app.py", "ocr.py"} <= exported
    assert not {"unfinished_export", "new_export", "old_export"} & exported
    tested = json.loads((short_run / "report" / "results.json").read_text())["split"]["test"]
    examples = {path.name for path in (short_run / "demo_app" / "Examples").iterdir()}
    assert len(examples) == tested and examples < {path.name for path in (short_run / "images").iterdir()}
    figures = {path.stem for path in (short_run / "report" / "images").iterdir()}
    assert figures == {
        "example_data",
        "architecture",
        "training_history",
        "model_selection",
        "label_errors",
        "predictions",
    }
    results = json.loads((short_run / "report" / "results.json").read_text())
    assert results["dataset"] == "eighty.zip" and results["images"] == 80 and results["epochs"] == 2
    assert results["pretraining"]["images"] == 64 and sum(results["split"].values()) == 80
    assert 0 <= results["metrics"]["exact_match"] <= 1 and results["metrics"]["test_loss"] > 0
    runs = list((short_run / "work" / "runs").iterdir())
    assert len(runs) == 2 and all(list(run.rglob("events*")) for run in runs)


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


def test_any_set_of_images_makes_a_reader(tmp_path):
    """Few images in colour, of mixed sizes and formats, with a list of labels in two scripts."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    rows = ["filename\tlabel"]
    for number in range(14):
        width, height = (int(size) for size in rng.integers((70, 20), (200, 60)))
        image = Image.new("RGB", (width, height), (255, 0, 0))
        image.paste((0, 130, 0), (10, 5, int(rng.integers(20, width)), height - 5))
        kind, mode = [("PNG", "RGB"), ("JPG", "CMYK"), ("gif", "P"), ("tiff", "RGB")][number % 4]
        image.convert(mode).save(tmp_path / "images" / f"{number}.{kind}")
        rows.append(f"{number}.{kind}\t{'漢 $é|'[: 1 + number % 5].strip()}{number % 3}")
    (tmp_path / "images" / "labels.tsv").write_text("\n".join(rows), encoding="utf-8")
    shutil.copytree(ROOT / "demo_app", tmp_path / "demo_app", ignore=shutil.ignore_patterns("__pycache__"))
    parameters = {"DATASET": "images", "PRETRAIN": 32, "EPOCHS": 1, "OUTPUT": "app", "REPORT": "report"}
    papermill.execute_notebook(
        ROOT / "study.ipynb", tmp_path / "out.ipynb", parameters, cwd=tmp_path, progress_bar=False
    )
    results = json.loads((tmp_path / "report" / "results.json").read_text(encoding="utf-8"))
    assert results["images"] == 14 and results["shape"]["channels"] == 3
    assert results["pretraining"]["look"] == "varied"
    recognizer = ocr.Recognizer(tmp_path / "app")
    assert set(recognizer.about["alphabet"]) >= set("漢é$ 012") and recognizer.channels == 3
    assert [reading.frames.ndim for reading in recognizer.read_batch(find_images(tmp_path / "images"))] == [
        2
    ] * 14


def test_an_unreachable_default_ends_on_drawn_images_within_20_seconds(
    study, notebook, tmp_path, monkeypatch
):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(study, "WORK", str(tmp_path))
    (cell,) = [cell for cell in notebook["cells"] if "source = DATASET" in "".join(cell["source"])]
    printed = []
    monkeypatch.setitem(study.__dict__, "print", printed.append)
    start = time.monotonic()
    exec("".join(cell["source"]), study.__dict__)
    assert time.monotonic() - start < 20
    assert study.source == "rendered" and len(list(study.folder.iterdir())) == 1070
    assert "fournierp" in printed[0] and "rendered" in printed[0] and "\n" not in printed[0]


@pytest.mark.skipif(os.name != "posix", reason="kills a process group")
def test_a_killed_run_goes_on_where_it_was(study, tmp_path):
    shutil.copytree(ROOT / "demo_app", tmp_path / "demo_app", ignore=shutil.ignore_patterns("__pycache__"))
    study.draw_dataset(40, 4, tmp_path / "images")
    parameters = {"DATASET": "images", "PRETRAIN": 64, "EPOCHS": 12, "OUTPUT": "app", "REPORT": "report"}
    options = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", str(ROOT / "study.ipynb"), "out.ipynb", *options]

    def epochs():
        """Of the runs whose logs have a row, oldest first."""
        logs = sorted(tmp_path.glob("work/runs/**/log.csv"), key=lambda path: path.parent.stat().st_ctime)
        with contextlib.suppress(pd.errors.EmptyDataError):
            return [list(pd.read_csv(log)["epoch"].drop_duplicates()) for log in logs]
        return []

    with (tmp_path / "run.log").open("w") as output:
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=output, stderr=output, start_new_session=True
        )
        while process.poll() is None and not (len(epochs()) == 2 and min(map(len, epochs())) >= 3):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert sorted(map(len, epochs()))[0] < 12, (tmp_path / "run.log").read_text()
    assert not (tmp_path / "app").exists()
    path = sorted((tmp_path / "images").iterdir())[0]
    elsewhere = path.rename(tmp_path / path.name)
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "The images or labels of images have changed since this run was stopped" in refused.stderr
    elsewhere.rename(path)
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    text = "".join(
        output.get("text", "")
        for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells
        for output in cell.get("outputs", [])
    )
    assert text.count("epochs were done before") == 2
    assert "epoch   1/" not in text and "epoch  12/12" in text
    assert sorted(epochs()) == [list(range(8)), list(range(12))]
    assert json.loads((tmp_path / "report" / "results.json").read_text())["epochs"] == 12
    assert ocr.Recognizer(tmp_path / "app").about["split"]["train"] == 32

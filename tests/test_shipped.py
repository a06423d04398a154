"""The files that are shipped: the model, its numbers, the pages that quote them."""

import hashlib
import json
import re

import nbformat
import ocr
import pytest
import yaml
from folders import find_images
from runs import ARCHIVE, ROOT
from table import PAGES, fill

from training.data import scan, split
from training.fetching import fetch

RESULTS = json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def recognizer():
    return ocr.Recognizer()


def test_all_ten_examples_are_read_right(recognizer):
    paths, _ = find_images(ROOT / "demo_app" / "Examples")
    assert len(paths) == 10
    assert [reading.text for reading in recognizer.read_batch(paths)] == [path.stem for path in paths]


@pytest.mark.skipif(not ARCHIVE.exists(), reason="the shared archive is not here")
def test_the_model_reads_the_test_split_as_the_results_say(recognizer, tmp_path):
    folder, _ = fetch(str(ARCHIVE), tmp_path, RESULTS["seed"])
    table, _, _ = scan(folder, "(.+)")
    splits = split(table, RESULTS["seed"], RESULTS["fold"], RESULTS["labels"], RESULTS["split_by"])
    test = splits["test"]
    assert len(test) == RESULTS["split"]["test"] >= 96
    readings = recognizer.read_batch(test["path"])
    right = sum(reading.text == label for reading, label in zip(readings, test["label"], strict=True))
    assert right / len(test) == pytest.approx(RESULTS["metrics"]["exact_match"])
    assert right / len(test) >= 0.99


def test_the_saved_model_is_small_and_runs_without_a_gpu():
    model = ROOT / "demo_app" / "ocr_model"
    assert b"Cudnn" not in (model / "saved_model.pb").read_bytes()
    assert sum(path.stat().st_size for path in model.rglob("*") if path.is_file()) == RESULTS["model_bytes"]


def test_notebook_readme_and_model_card_show_the_numbers_of_one_run():
    book = nbformat.read(ROOT / "study.ipynb", as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    (summary,) = [
        cell.outputs[0].data["text/plain"] for cell in code if cell.metadata.get("tags") == ["results"]
    ]
    metrics = RESULTS["metrics"]
    low, high = metrics["exact_match_interval"]
    for figure in (
        f"{metrics['exact_match']:.2%}",
        f"{low:.1%} to {high:.1%}",
        f"{metrics['cer']:.2%}",
        f"{metrics['val_loss']:.4f}",
        f"{RESULTS['parameters']:,} parameters",
        f"{RESULTS['images']:,} images",
    ):
        assert figure in summary
    for name in ("readme.md", "demo_app/README.md"):
        assert f"<!-- results -->\n{summary}\n<!-- /results -->" in (ROOT / name).read_text(encoding="utf-8")


def test_the_tables_of_the_pages_are_those_of_the_json_files():
    for name, tables in PAGES.items():
        page = (ROOT / name).read_text(encoding="utf-8")
        for marker, table in tables.items():
            assert f"<!-- {marker} -->\n{fill(table)}\n<!-- /{marker} -->" in page


def test_the_space_s_front_matter_agrees_with_the_requirements():
    page = (ROOT / "demo_app" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(page.split("---")[1])
    pinned = re.search(r"^gradio==(\S+)$", (ROOT / "demo_app" / "requirements.txt").read_text(), re.MULTILINE)
    assert front["sdk"] == "gradio" and front["sdk_version"] == pinned[1]
    assert front["app_file"] == "app.py" and front["license"] == "apache-2.0"
    assert front["python_version"] in ("3.11", "3.12", "3.13")
    picture = front["thumbnail"].partition("/main/")[2]
    assert (ROOT / picture).exists() and front["suggested_hardware"] == "cpu-basic" and "ocr" in front["tags"]


def test_the_light_requirements_are_those_of_the_app_but_for_what_runs_the_network():
    light, heavy = (
        {line for line in (ROOT / "demo_app" / name).read_text().splitlines() if line[0] != "#"}
        for name in ("requirements-light.txt", "requirements.txt")
    )
    assert {re.match(r"[\w-]+", line)[0] for line in light - heavy} == {"onnxruntime"}
    assert {re.match(r"[\w-]+", line)[0] for line in heavy - light} == {
        "tensorflow-cpu",
        "tensorflow",
        "keras",
    }


def test_the_container_installs_the_requirements_and_starts_the_app():
    folder = ROOT / "demo_app"
    steps = [
        line.split(" ", 1) for line in (folder / "Dockerfile").read_text().splitlines() if line[0] != "#"
    ]
    words = dict(steps)
    assert re.fullmatch(r"python:3\.1[123]-slim", words["FROM"])
    assert ["COPY", "requirements.txt ."] in steps and (folder / "requirements.txt").exists()
    install = next(step for step in steps if "pip install" in step[1])
    assert "-r requirements.txt" in install[1] and steps.index(install) < steps.index(["COPY", ". ."])
    start = json.loads(words["CMD"])
    assert start[0] == "python" and (folder / start[1]).exists()
    assert words["EXPOSE"] == "7860" and words["ENV"] == "GRADIO_SERVER_NAME=0.0.0.0"


def test_the_licence_is_the_unedited_apache_2():
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"

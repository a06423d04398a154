"""`python -m training.run`, which `make study` calls: parameters, log, errors, what it publishes."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from papermill.iorw import load_notebook_node
from runs import ROOT

from training.fetching import DEFAULT_DATASET
from training.run import is_bug, publish, read_parameters

PAGES = ("readme.md", "demo_app/README.md")
CELLS = [
    new_markdown_cell("# A study"),
    new_code_cell(
        f'DATASET = "{DEFAULT_DATASET}"\nEPOCHS = None\nSIZE = 1.0',
        metadata={"tags": ["parameters"], "jupyter": {"source_hidden": True}},
    ),
    new_code_cell("""
import os, sys, warnings
import matplotlib.pyplot as plt

print("one line", flush=True)
for part in (50, 100):
    print(f"\\r{part}%", end="", file=sys.stderr, flush=True)
print(file=sys.stderr, flush=True)
warnings.warn("IProgress not found. Please update jupyter")
os.write(2, b"oneDNN custom operations are on")  # as TensorFlow's libraries write
plt.plot([1])
plt.show()
"""),
    new_code_cell(
        'display({"text/markdown": "| new |", "text/plain": "| new |"}, raw=True)',
        metadata={"tags": ["results"]},
    ),
]
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


@pytest.fixture
def repository(tmp_path):
    """A stand-in with a small notebook, pages with an old table, and results on the default data set."""
    shutil.copytree(ROOT / "training", tmp_path / "training", ignore=shutil.ignore_patterns("__pycache__"))
    nbformat.write(new_notebook(cells=CELLS, metadata=KERNEL), tmp_path / "study.ipynb")
    for name in (*PAGES, "docs/results.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("# é\n<!-- results -->\n| old |\n<!-- /results -->\n", "utf-8")
    (tmp_path / "docs" / "results.json").write_text('{"dataset": "captcha-version-2-images.zip"}')
    return tmp_path


def run(folder, *words):
    """Run the command; return its exit status and the lines that it printed, on both streams."""
    command = [sys.executable, "-m", "training.run", *words]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode().replace(os.linesep, "\n").split("\n")


def test_a_run_says_what_the_cells_say_and_publishes_the_default_data_set(repository):
    status, lines = run(repository, "-p", "DATASET", DEFAULT_DATASET)
    assert status == 0 and lines.pop(0).startswith("study.ipynb is running.")
    executed = repository / "work" / "study.ipynb"
    last = f"{executed} is the notebook with its outputs. Its outputs are in study.ipynb, too."
    assert lines == ["one line", "\r50%\r100%", "| new |", "", last, ""]
    assert "oneDNN" in (repository / "work" / "kernel.log").read_text()
    book = nbformat.read(repository / "study.ipynb", as_version=4)
    assert [cell.source for cell in book.cells] == [cell.source for cell in CELLS]
    assert [cell.metadata for cell in book.cells] == [cell.metadata for cell in CELLS]
    assert [cell.get("execution_count") for cell in book.cells] == [None, 1, 2, 3]
    kinds = [output.get("name", output.output_type) for output in book.cells[2].outputs]
    assert kinds == ["stdout", "display_data"] and "papermill" not in book.metadata
    for name in PAGES:
        page = (repository / name).read_text("utf-8")
        assert page == "# é\n<!-- results -->\n| new |\n<!-- /results -->\n"


@pytest.mark.parametrize(
    ("parameters", "dataset"),
    [
        ({}, "synthetic"),  # where there is no network
        ({"DATASET": "../mine"}, "mine"),
        ({"EPOCHS": 60}, "captcha-version-2-images.zip"),
    ],
)
def test_other_runs_leave_the_pages_as_they_are(repository, parameters, dataset):
    (repository / "docs" / "results.json").write_text(json.dumps({"dataset": dataset}))
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    book = load_notebook_node(str(repository / "study.ipynb"))
    book.metadata.papermill["parameters"] = parameters
    assert not publish(book, repository)
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_parameters_are_what_they_look_like_but_texts_stay_texts(repository):
    words = [["DATASET", "2024"], ["EPOCHS", "60"], ["SIZE", "-1e-3"]]
    expected = {"DATASET": "2024", "EPOCHS": 60, "SIZE": -0.001}
    assert read_parameters(repository / "study.ipynb", words) == expected
    for text, value in [
        ("None", None),
        ("none", None),
        ("false", False),
        ("../mine", "../mine"),
        ("a b", "a b"),
    ]:
        assert read_parameters(repository / "study.ipynb", [["EPOCHS", text]]) == {"EPOCHS": value}


@pytest.mark.parametrize(("name", "text"), [("SIZE", "1,5"), ("SEED", "abc"), ("LEARNING_RATE", "0,01")])
def test_what_is_no_number_ends_the_run_before_it_starts(name, text):
    with pytest.raises(SystemExit, match=f"^{name} must be a number, such as .+, not {text}.$"):
        read_parameters(ROOT / "study.ipynb", [[name, text]])


@pytest.mark.parametrize(("name", "nearest"), [("EPOCH", "EPOCHS"), ("dataset", "DATASET"), ("X", "SIZE")])
def test_a_misspelt_parameter_ends_the_run_before_it_starts(repository, name, nearest):
    with pytest.raises(SystemExit, match=f"^There is no parameter {name}. Did you mean {nearest}\\?$"):
        read_parameters(repository / "study.ipynb", [["SIZE", "2"], [name, "2"]])


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("DATASET", "nowhere", "DatasetError: There is no data set 'nowhere': give "),
        ("EPOCHS", "1e2", "ValueError: BATCH_SIZE and EPOCHS must be whole numbers, at least 1; "),
    ],
)
def test_a_wrong_parameter_ends_in_its_sentence(repository, name, value, sentence):
    """In the whole notebook."""
    (repository / "demo_app" / "README.md").unlink()
    (repository / "demo_app").rmdir()
    shutil.copytree(ROOT / "demo_app", repository / "demo_app", ignore=shutil.ignore_patterns("ocr_model"))
    shutil.copy(ROOT / "study.ipynb", repository)
    status, lines = run(repository, "-p", name, value)
    assert status == 1 and not [line for line in lines if "Traceback" in line]
    assert lines[-2].startswith(sentence) and lines[-1] == ""
    assert lines[-3] == f"{repository / 'work' / 'study.ipynb'} is the notebook up to the cell that failed."


def test_only_bugs_keep_their_traceback():
    sources = {
        "raise ValueError(\n    'Set EPOCHS.'\n)": False,
        "from training.fetching import fetch\nfrom pathlib import Path\nfetch('', Path(), 0)": False,
        "try:\n    len(5)\nexcept TypeError as error:\n    raise ValueError('Set EPOCHS.') from error": False,
        "import numpy\nnumpy.zeros(3).reshape(2, 2)": True,
        "import json\njson.loads('{')": True,
        "try:\n    int('x')\nexcept ValueError:\n    raise": True,
        "len(5)": True,
        "len(": True,
    }
    book = new_notebook(cells=[new_code_cell(source) for source in sources], metadata=KERNEL)
    NotebookClient(book, allow_errors=True, resources={"metadata": {"path": str(ROOT)}}).execute()
    for cell, bug in zip(book.cells, sources.values(), strict=True):
        error = SimpleNamespace(traceback=cell.outputs[-1].traceback)
        assert is_bug(error) == bug, cell.source


def test_a_bug_shows_its_traceback_and_a_machine_that_is_done_ends_well(repository):
    for source, expected, last in [
        ("len(SIZE)", 1, "TypeError: object of type 'float' has no len()"),
        ("raise SystemExit('The chief goes on.')", 0, "The chief goes on."),
    ]:
        book = new_notebook(cells=[*CELLS[:2], new_code_cell(source)], metadata=KERNEL)
        nbformat.write(book, repository / "study.ipynb")
        status, lines = run(repository)
        assert status == expected and [line for line in lines if line][-1] == last
        assert any("Traceback" in line for line in lines) == bool(expected)

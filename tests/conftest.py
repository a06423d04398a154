"""What several tests share: the notebook, its functions, a model exported by a short run, a served app."""

import hashlib
import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image, ImageDraw
from runs import ROOT, notebook_functions, serve


@pytest.fixture(scope="session")
def notebook():
    return json.loads((ROOT / "study.ipynb").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def study():
    """The functions of study.ipynb as a module."""
    return notebook_functions()


def draw_mixed(count, folder):
    """Draw small images in colour, of mixed sizes and formats, with a list of labels in two scripts."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = ["filename\tlabel"]
    for number in range(count):
        width, height = (int(size) for size in rng.integers((48, 30), (64, 48)))
        image = Image.new("RGB", (width, height), (255, 0, 0))
        left = int(rng.integers(2, width // 2))
        ImageDraw.Draw(image).rectangle((left, 5, left + width // 3, height - 5), (0, 130, 0))
        kind, mode = [("PNG", "RGB"), ("JPG", "CMYK"), ("gif", "P"), ("tiff", "RGB")][number % 4]
        image.convert(mode).save(folder / f"{number}.{kind}")
        rows.append(f"{number}.{kind}\t{'漢 é'[: 1 + number % 3].strip()}$|{number % 3}")
    (folder / "labels.tsv").write_text("\n".join(rows), encoding="utf-8")


def shipped_files():
    """A digest of every tracked file that a run writes by default."""
    command = ["git", "ls-files", "-z", "demo_app", "docs", "study.ipynb"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    paths = [ROOT / name for name in names if name and not name.endswith((".py", ".md", ".ipynb"))]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.exists()}


@pytest.fixture(scope="session")
def short_run(tmp_path_factory):
    """A run of the whole notebook on a few images: a folder with images, demo_app, report, out.ipynb.

    The network is too small for the start that comes with the notebook.
    """
    folder = tmp_path_factory.mktemp("short_run")
    ignore = shutil.ignore_patterns("ocr_model", "*_to_*", "Examples", "__pycache__")
    shutil.copytree(ROOT / "demo_app", folder / "demo_app", ignore=ignore)
    draw_mixed(20, folder / "images")
    shutil.make_archive(folder / "twenty", "zip", folder / "images")
    parameters = {
        "DATASET": str(folder / "twenty.zip"),
        "START": "random",
        "BATCH_SIZE": 4,
        "SIZE": 0.25,
        "EPOCHS": 2,
        "OUTPUT": str(folder / "demo_app"),
        "REPORT": str(folder / "report"),
        "WORK": str(folder / "work"),
    }
    import papermill  # which the app's tests do without

    before = shipped_files()
    papermill.execute_notebook(
        ROOT / "study.ipynb", folder / "out.ipynb", parameters, cwd=ROOT, progress_bar=False
    )
    assert shipped_files() == before
    return folder


@pytest.fixture(scope="session")
def shipped_app(tmp_path_factory):
    """The address of the shipped app, started from a copy of demo_app and another working directory."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(ROOT / "demo_app", folder / "demo_app", ignore=shutil.ignore_patterns("__pycache__"))
    with serve(folder / "demo_app" / "app.py", folder) as address:
        yield address

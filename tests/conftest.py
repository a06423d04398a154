"""What several tests share: the notebook's functions, a model exported by a short run, a served app."""

import hashlib
import json
import shutil
import subprocess

import papermill
import pytest
from runs import ROOT, definitions, serve


@pytest.fixture(scope="session")
def notebook():
    return json.loads((ROOT / "study.ipynb").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def study():
    """The functions of study.ipynb as a module."""
    return definitions()


def tracked_files():
    """A digest of every tracked file."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    paths = [ROOT / name.decode() for name in names.split(b"\0") if name]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.exists()}


@pytest.fixture(scope="session")
def short_run(study, tmp_path_factory):
    """A run of the whole notebook on a few drawn images: a folder with demo_app, report, out.ipynb.

    The images come as a zip, so the network first learns from other drawn ones.
    """
    folder = tmp_path_factory.mktemp("short_run")
    ignore = shutil.ignore_patterns("ocr_model", "*_to_*", "Examples", "__pycache__")
    shutil.copytree(ROOT / "demo_app", folder / "demo_app", ignore=ignore)
    study.draw_dataset(80, 3, folder / "images")
    shutil.make_archive(folder / "eighty", "zip", folder / "images")
    before = tracked_files()
    papermill.execute_notebook(
        ROOT / "study.ipynb",
        folder / "out.ipynb",
        {
            "DATASET": str(folder / "eighty.zip"),
            "PRETRAIN": 64,
            "EPOCHS": 2,
            "OUTPUT": str(folder / "demo_app"),
            "REPORT": str(folder / "report"),
            "WORK": str(folder / "work"),
        },
        cwd=ROOT,
        progress_bar=False,
    )
    assert tracked_files() == before
    return folder


@pytest.fixture(scope="session")
def shipped_app(tmp_path_factory):
    """The address of the shipped app, started from a copy of demo_app and another working directory."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(ROOT / "demo_app", folder / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    with serve(folder / "copy" / "app.py", folder) as address:
        yield address

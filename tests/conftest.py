"""What several tests share: the notebook's functions, a model exported by a short run, a served app."""

import contextlib
import json
import linecache
import os
import shutil
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).parent.parent
ARCHIVE = ROOT.parent / "shared" / "data" / "captcha-version-2-images.zip"
sys.path.insert(0, str(ROOT / "demo_app"))


@pytest.fixture(scope="session")
def notebook():
    return json.loads((ROOT / "study.ipynb").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def study(notebook, tmp_path_factory):
    """The functions of study.ipynb as a module: its parameters and the cells that only define."""
    module = types.ModuleType("study")
    sys.modules["study"] = module
    with contextlib.chdir(ROOT):
        for number, cell in enumerate(notebook["cells"]):
            if {"parameters", "definitions"} & set(cell["metadata"].get("tags", [])):
                lines, name = cell["source"], f"<study.ipynb, cell {number}>"
                lines = lines.splitlines(keepends=True) if isinstance(lines, str) else lines
                linecache.cache[name] = (0, None, lines, name)  # TensorFlow reads the source of functions
                exec(compile("".join(lines), name, "exec"), module.__dict__)
    return module


@pytest.fixture(scope="session")
def short_run(tmp_path_factory):
    """A run of the whole notebook on a few drawn images: the folder with demo_app, report and out.ipynb."""
    folder = tmp_path_factory.mktemp("short_run")
    ignore = shutil.ignore_patterns("ocr_model", "*_to_*", "Examples", "__pycache__")
    shutil.copytree(ROOT / "demo_app", folder / "demo_app", ignore=ignore)
    papermill.execute_notebook(
        ROOT / "study.ipynb",
        folder / "out.ipynb",
        {
            "DATASET": "rendered:80",
            "EPOCHS": 2,
            "OUTPUT": str(folder / "demo_app"),
            "REPORT": str(folder / "report"),
            "WORK": str(folder / "work"),
        },
        cwd=ROOT,
        progress_bar=False,
    )
    return folder


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command, port, log, **options):
    """Start a server, wait until it listens on its port of 127.0.0.1, stop it at the end."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.2)
        else:
            raise RuntimeError(f"{command} did not start:\n{log.read_text()}")
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextlib.contextmanager
def serve(app, cwd, **environment):
    """Start a copy of the app and give its address."""
    port = free_port()
    environment |= {"GRADIO_SERVER_PORT": str(port)}
    command = [sys.executable, str(app)]
    with running(command, port, Path(cwd, "app.log"), cwd=cwd, env=os.environ | environment):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def shipped_app(tmp_path_factory):
    """The address of the shipped app, started from a copy of demo_app and another working directory."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(ROOT / "demo_app", folder / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    with serve(folder / "copy" / "app.py", folder) as address:
        yield address

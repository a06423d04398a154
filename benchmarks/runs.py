"""What benchmarks and tests share: the notebook's functions, runs with other parameters, a served app."""

import contextlib
import hashlib
import json
import linecache
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ARCHIVE = ROOT.parent / "shared" / "data" / "captcha-version-2-images.zip"
DATASET = str(ARCHIVE) if ARCHIVE.exists() else "kaggle:fournierp/captcha-version-2-images"
WORK = ROOT / "work" / "benchmarks"
sys.path[:0] = [str(ROOT), str(ROOT / "demo_app")]  # where the repository's modules lie


def code() -> list[tuple[int, dict[str, Any]]]:
    """Return the notebook's cells of code, with their numbers."""
    cells = json.loads((ROOT / "study.ipynb").read_text(encoding="utf-8"))["cells"]
    return [(number, cell) for number, cell in enumerate(cells) if cell["cell_type"] == "code"]


def notebook_functions() -> types.ModuleType:
    """Load the notebook's parameters and the cells that only define as the module `study`."""
    module = sys.modules["study"] = types.ModuleType("study")
    with contextlib.chdir(ROOT):  # where the notebook finds demo_app
        for number, cell in code():
            if {"parameters", "definitions"} & set(cell["metadata"].get("tags", [])):
                lines, name = cell["source"], f"<study.ipynb, cell {number}>"
                linecache.cache[name] = (0, None, lines, name)  # TensorFlow reads the source of functions
                exec(compile("".join(lines), name, "exec"), module.__dict__)
    return module


def run(name: str, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401, whatever the notebook takes
    """Run the notebook into a folder under `WORK`, unless that was done already, and return its results.

    Args:
        name: Of the run's folder.
        **parameters: Of the notebook, but the folders.

    Raises:
        ConnectionError: If the data set can't be downloaded.
    """
    folder = run_folder(name)
    report = folder / "report"
    if not (report / "results.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        work = run_folder("work")  # the images serve many runs
        folders = {"OUTPUT": str(folder / "app"), "REPORT": str(report), "WORK": str(work)}
        parameters = {"DATASET": DATASET} | folders | parameters
        # A stopped run starts anew, so that its seconds are those of a whole run.
        shutil.rmtree(work / "runs", ignore_errors=True)
        import papermill  # which a reader without TensorFlow does without

        out = folder / "out.ipynb"
        papermill.execute_notebook(ROOT / "study.ipynb", out, parameters, cwd=ROOT, progress_bar=False)
    results = json.loads((report / "results.json").read_text(encoding="utf-8"))
    if results["dataset"] == "synthetic":  # by itself, the notebook goes on without a network
        raise ConnectionError(f"The data set can't be downloaded. Put it at {ARCHIVE}, and delete {folder}.")
    return results


def run_folder(name: str) -> Path:
    """Give the folder of a run of the notebook, in one named after the code that it runs and its start."""
    modules = sorted(path for folder in ("training", "demo_app") for path in (ROOT / folder).glob("*.py"))
    texts = ["".join(cell["source"]) for _, cell in code()] + [path.read_text("utf-8") for path in modules]
    texts.append((ROOT / "training" / "start" / "ocr_model/assets.extra/manifest.json").read_text("utf-8"))
    return WORK / hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12] / name


def free_port() -> int:
    """Find a port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cluster(count: int) -> list[dict[str, str]]:
    """Make what the environment of each of several machines, all on 127.0.0.1, tells TensorFlow."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(count)]
    tasks = [{"type": "worker", "index": index} for index in range(count)]
    return [{"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task})} for task in tasks]


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path, **options: Any) -> Iterator[None]:  # noqa: ANN401, Popen's
    """Start a server, wait until it listens on its port of 127.0.0.1, stop it at the end."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        else:
            raise RuntimeError(f"{command} did not start:\n{log.read_text()}")
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextlib.contextmanager
def serve(app: Path, cwd: Path, **environment: str) -> Iterator[str]:
    """Start a copy of the app and give its address."""
    port = free_port()
    environment |= {"GRADIO_SERVER_PORT": str(port)}
    command = [sys.executable, str(app)]
    with running(command, port, Path(cwd, "app.log"), cwd=cwd, env=os.environ | environment):
        yield f"http://127.0.0.1:{port}"


def machine() -> dict[str, Any]:
    """Describe the machine and the versions, for a benchmark's JSON."""
    import keras
    import numpy as np
    import tensorflow as tf

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }


def load(name: str) -> dict[str, Any]:
    """Load a benchmark's JSON."""
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def written(name: str) -> dict[str, Any]:
    """Load what an earlier run of a benchmark has written; nothing if there was none."""
    try:
        return load(name)
    except FileNotFoundError:
        return {}


def write(name: str, content: dict[str, Any]) -> None:
    """Write a benchmark's JSON beside its script."""
    text = json.dumps(content | {"machine": machine()}, indent=2)
    (ROOT / "benchmarks" / f"{name}.json").write_text(text + "\n", encoding="utf-8")

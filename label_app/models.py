"""The models that guess: loaded, trained on the labels in a process of their own, served."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from ocr import ModelError, Recognizer
from page import REPOSITORY

from label_app.answers import LabellingError

ROOT = Path(__file__).parent.parent
EPOCH = re.compile(r"epoch +(\d+)/(\d+) .* exact match +(\S+) +[\d.]+ s(.*)")
MODEL_FILES = ("ocr_model*", "*_to_*", "Examples", "*_export", "__pycache__")
CARD = f"""---{{}}---

# {{}}

Reads images like those it learnt from, with [CustomOCR](https://github.com/{REPOSITORY}).
"""


class Training(threading.Thread):
    """Runs the notebook on a folder in a process of its own, then loads what it exported.

    Args:
        folder: Holds the images and `labels.csv`.
        work: Gets the folder `reader`, a copy of the demo app with the new model, and checkpoints.
        parameters: Of the notebook, names and values.

    Attributes:
        recognizer: The new one, None before the end and if it failed.
        said: How far it is, or how it ended.
    """

    def __init__(self, folder: Path, work: Path, parameters: list[list[str]]) -> None:
        super().__init__(daemon=True)
        self.recognizer: Recognizer | None = None
        self.said, self.reader = "The notebook starts.", work / "reader"
        ignored = shutil.ignore_patterns(*MODEL_FILES)
        shutil.copytree(ROOT / "demo_app", self.reader, ignore=ignored, dirs_exist_ok=True)
        settings = (self.reader / "README.md").read_text("utf-8").split("---")[1]  # of the Space
        (self.reader / "README.md").write_text(CARD.format(settings, folder.name), "utf-8")
        folders = {"DATASET": folder, "OUTPUT": self.reader, "REPORT": work / "report", "WORK": work}
        given = [*([name, str(path)] for name, path in folders.items()), *parameters]
        command = [sys.executable, "-m", "training.run", *(word for pair in given for word in ("-p", *pair))]
        if nice := shutil.which("nice"):  # labelling comes first
            command = [nice, *command]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        coding = {"encoding": "utf-8", "errors": "replace", "env": os.environ | {"PYTHONIOENCODING": "utf-8"}}
        self.process = subprocess.Popen(command, cwd=ROOT, **options, **coding)

    def run(self) -> None:
        """Wait for the end."""
        last = "it ended without giving a reason"
        for line in self.process.stdout:
            last = line.strip() or last
            if found := EPOCH.search(line):
                epoch, epochs, match, left = found.groups()
                self.said = f"Epoch {epoch} of {epochs}: {match} of the validation images are read{left}."
        if self.process.wait():
            self.said = f"Training failed, and the model is unchanged. {last}"
            return
        try:
            self.recognizer, self.said = load_model(self.reader), "The new model is now in use."
            shutil.rmtree(self.reader.parent / "runs", ignore_errors=True)  # the next one has other labels
        except ModelError as error:
            self.said = str(error)


def load_model(folder: Path, lines: int = 1) -> Recognizer:
    """Load an exported model, with onnxruntime where it can: that starts at once.

    Args:
        folder: Holds the export.
        lines: Of text in each image, see `Recognizer`.

    Raises:
        ModelError: If it can't be loaded.
    """
    return Recognizer(folder, "onnx" if (folder / "ocr_model.onnx").exists() else None, lines)


def serve(folder: Path) -> tuple[subprocess.Popen, str]:
    """Start the app of a folder; return its process and, once it answers, its address.

    Raises:
        LabellingError: If it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    # Without -B, Python would write into the folder that may be uploaded.
    process = subprocess.Popen([sys.executable, "-B", str(folder / "app.py")], env=os.environ | place)
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return process, f"http://127.0.0.1:{port}"
        time.sleep(0.1)
    raise LabellingError("The app did not start. The terminal that runs this page shows the reason.")

"""The notebook's first cell in Colab: it clones what is missing and keeps what is there."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from runs import ROOT, free_port, running


class Shell(InteractiveShell):
    """Named like Colab's, which is how the cell knows it."""


Shell.__module__ = "google.colab._shell"


@pytest.fixture
def stub_site(tmp_path):
    """A git server on this machine that has the repository under its owner's name."""
    site, source = tmp_path / "site", tmp_path / "source"
    for name in ("training", "demo_app"):
        ignore = shutil.ignore_patterns("ocr_model", "__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (
        ["init", "--quiet", source],
        ["-C", source, "add", "."],
        ["-C", source, *identity, "commit", "--quiet", "-m", "Add the code"],
        ["clone", "--quiet", "--bare", source, site / "ertugruldmr" / "CustomOCR"],
    ):
        subprocess.run(["git", *command], check=True)
    port = free_port()
    options = ["--listen=127.0.0.1", f"--port={port}", f"--base-path={site}", "--export-all"]
    with running(["git", "daemon", *options], port, tmp_path / "git.log"):
        yield f"git://127.0.0.1:{port}/"


def test_the_first_cell_clones_the_repository_and_leaves_tensorflow_alone(
    notebook, stub_site, tmp_path, monkeypatch
):
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    content = tmp_path / "content"
    content.mkdir()
    monkeypatch.chdir(content)
    for name, value in {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{stub_site}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/",
    }.items():
        monkeypatch.setenv(name, value)
    shell = Shell()
    installed = []
    shell.register_magic_function(installed.append, magic_name="pip")
    shell.run_cell("".join(cell["source"])).raise_error()
    assert Path.cwd() == content / "CustomOCR"
    for name in ("training/data.py", "demo_app/ocr.py"):
        assert Path(name).read_bytes() == (ROOT / name).read_bytes()
    installed = " ".join(installed)
    assert "tensorflow" not in installed and "numpy" not in installed
    names = ("gradio", "kaggle", "keras", "python-bidi", "rapidfuzz", "tensorboard", "tf2onnx")
    assert all(name in installed for name in names)
    required = {line for path in ROOT.glob("*/requirements.txt") for line in path.read_text().splitlines()}
    assert required.issuperset(re.findall('"(.+?)"', installed))
    Path("training", "mine.txt").write_text("kept")
    shell.run_cell("".join(cell["source"])).raise_error()
    assert Path.cwd() == content / "CustomOCR" and Path("training", "mine.txt").exists()
    assert not Path("CustomOCR").exists()


def test_the_repository_s_address_stands_in_the_first_cells_alone(notebook):
    name = "/".join(("ertugruldmr", "CustomOCR"))  # in two parts, so that it isn't found here
    command = ["git", "grep", "--files-with-matches", "--fixed-strings", name]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    code = {name for name in found if not name.endswith(".md")}
    assert code == {"demo_app/page.py", "study.ipynb"}  # the first one for its links
    cells = [cell for cell in notebook["cells"] if name in json.dumps(cell)]
    assert [cell["cell_type"] for cell in cells] == ["markdown", "code"] and cells[0] == notebook["cells"][0]
    badge = f"https://colab.research.google.com/github/{name}/blob/main/study.ipynb"
    assert badge in "".join(cells[0]["source"])
    assert f'REPOSITORY = "https://github.com/{name}"\n' in cells[1]["source"]

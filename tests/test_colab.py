"""The notebook's first cell in Colab: clone what is missing, keep what is there."""

import re
import shutil
import subprocess

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
    shutil.copytree(ROOT / "demo_app", source / "demo_app", ignore=shutil.ignore_patterns("ocr_model"))
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (
        ["init", "--quiet", source],
        ["-C", source, "add", "."],
        ["-C", source, *identity, "commit", "--quiet", "-m", "Add the app"],
        ["clone", "--quiet", "--bare", source, site / "ertugruldmr" / "CustomOCR"],
    ):
        subprocess.run(["git", *command], check=True)
    port = free_port()
    options = ["--listen=127.0.0.1", f"--port={port}", f"--base-path={site}", "--export-all"]
    with running(["git", "daemon", *options], port, tmp_path / "git.log"):
        yield f"git://127.0.0.1:{port}/"


def test_the_first_cell_clones_the_app_and_leaves_tensorflow_alone(
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
    assert (content / "demo_app" / "ocr.py").read_bytes() == (ROOT / "demo_app" / "ocr.py").read_bytes()
    assert len(installed) == 1 and "gradio" in installed[0]
    assert "tensorflow" not in installed[0] and "numpy" not in installed[0]
    required = {line for path in ROOT.glob("*/requirements.txt") for line in path.read_text().splitlines()}
    assert required.issuperset(re.findall('"(.+?)"', installed[0]))
    (content / "demo_app" / "mine.txt").write_text("kept")
    shutil.rmtree(content / "CustomOCR")
    shell.run_cell("".join(cell["source"])).raise_error()
    assert [path.name for path in content.iterdir()] == ["demo_app"] and (
        content / "demo_app" / "mine.txt"
    ).exists()


def test_the_repository_s_address_stands_in_one_place():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    address = b"://github.com/" + b"ertugruldmr"  # in two parts, so that it isn't found here
    (name,) = [name for name in files if address in (ROOT / name).read_bytes()]
    source = [line for line in (ROOT / name).read_bytes().splitlines() if address in line]
    assert name == "study.ipynb" and len(source) == 1 and b"REPOSITORY = " in source[0]

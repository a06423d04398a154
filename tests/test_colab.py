"""The notebook's first cell in Colab: clone what is missing, keep what is there."""

import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT
from IPython.core.interactiveshell import InteractiveShell


class Shell(InteractiveShell):
    """Named like Colab's, which is how the cell knows it."""


Shell.__module__ = "google.colab._shell"


@pytest.fixture
def stub_site(tmp_path):
    """A web server that has the repository under its owner's name, as git's plain files."""
    site = tmp_path / "site"
    bare = site / "ertugruldmr" / "CustomOCR.git"
    source = tmp_path / "source"
    shutil.copytree(ROOT / "demo_app", source / "demo_app", ignore=shutil.ignore_patterns("ocr_model"))
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (
        ["init", "--quiet", str(source)],
        ["-C", str(source), "add", "."],
        ["-C", str(source), *identity, "commit", "--quiet", "-m", "Add the app"],
        ["clone", "--quiet", "--bare", str(source), str(bare)],
        ["-C", str(bare), "update-server-info"],
    ):
        subprocess.run(["git", *command], check=True)
    handler = partial(SimpleHTTPRequestHandler, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


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
    (content / "demo_app" / "mine.txt").write_text("kept")
    shutil.rmtree(content / "CustomOCR")
    shell.run_cell("".join(cell["source"])).raise_error()
    assert [path.name for path in content.iterdir()] == ["demo_app"] and (
        content / "demo_app" / "mine.txt"
    ).exists()


def test_the_repository_s_address_stands_in_one_place():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    lines = [
        (name, line)
        for name in files
        if name.endswith((".py", ".md", ".txt", ".toml", ".ipynb", "Makefile"))
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if "://github.com/ertugruldmr" in line
    ]
    assert len(lines) == 1 and lines[0][0] == "study.ipynb" and "REPOSITORY = " in lines[0][1]

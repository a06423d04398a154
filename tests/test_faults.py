"""A full disk and a read-only folder, on a small file system that is mounted for it."""

import multiprocessing
import os
import shutil
import subprocess
from concurrent.futures import ProcessPoolExecutor

import keras
import pytest
from machine import ABOUT, build, draw
from network import Shape
from ocr import Recognizer
from runs import ROOT, notebook_functions

from training import exporting, fitting
from training.synthetic import ALPHABET

SHAPE = Shape(50, 200, 1, 1.0)
STROKES = ABOUT | {"shape": SHAPE._asdict()}
FULL = r"(?i)no space|RESOURCE_EXHAUSTED|errno 28|unable to|failed"


@pytest.fixture
def disk(tmp_path):
    """A folder on a file system of its own, and a function that mounts it anew with other options."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only the superuser may mount a file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", folder]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder, lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder, left):
    """Fill a disk but for so many bytes."""
    (folder / "filler").write_bytes(bytes(shutil.disk_usage(folder).free - left))


def copy_app(folder):
    """Copy the shipped model."""
    app = folder / "app"
    shutil.copytree(ROOT / "demo_app" / "ocr_model", app / "ocr_model")
    for name in ("char_to_num", "num_to_char", "ocr_model.onnx"):
        shutil.copy(ROOT / "demo_app" / name, app)
    return app


def export(app):
    """Export a small network and swap it in as the notebook does."""
    image = keras.Input((200, 50, 1))
    x = keras.layers.Reshape((50, 8))(keras.layers.Conv2D(8, (4, 50), (4, 50))(image))
    network = keras.Model(image, keras.layers.Dense(len(ALPHABET) + 1, name="logits")(x))
    numbers = {character: number for number, character in enumerate(ALPHABET, start=1)}
    new = app / "unfinished_export"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    exporting.export(network, keep, 1.0, numbers, SHAPE, STROKES, new)
    exporting.swap_in(new)


def keep(images, shape):
    """Preprocess images no further than must be."""
    images = keras.ops.image.resize(keras.ops.cast(images, "float32"), (shape.height, shape.width))
    return keras.ops.transpose(images, (0, 2, 1, 3))


def is_new(app):
    """Tell whether the app reads the exported model or the shipped one; one of them must be whole."""
    return Recognizer(app).about == STROKES


@pytest.mark.parametrize("left", [0, 20_000, 60_000])
def test_a_full_disk_leaves_the_old_model(disk, left):
    """How much is left decides how far the export comes."""
    folder, remount = disk
    app = copy_app(folder)
    fill(folder, left)
    with pytest.raises(Exception, match=FULL):
        export(app)
    assert not is_new(app)
    remount("size=16m")
    export(app)
    assert is_new(app) and {path.name for path in app.iterdir()} == {
        "ocr_model",
        "char_to_num",
        "num_to_char",
        "ocr_model.onnx",
    }


def test_a_read_only_folder_leaves_the_old_model(disk):
    folder, remount = disk
    app = copy_app(folder)
    remount("ro")
    with pytest.raises(OSError, match="Read-only"):
        export(app)
    assert not is_new(app)
    remount("rw")


def train_until_the_disk_is_full(folder):
    """Train for an epoch, and then for another one that does not fit."""
    study, data = notebook_functions(), draw(20)
    study.fit(build(), data, data, 1, fitting.open_run(folder))
    fill(folder, 20_000)
    with pytest.raises(Exception, match=FULL):
        study.fit(build(), data, data, 2, fitting.open_run(folder))


@pytest.mark.slow
def test_training_goes_on_after_the_disk_was_full(study, disk, capsys):
    folder, remount = disk
    # HDF5 crashes when a process ends that could not close a file (github.com/h5py/h5py/issues/914).
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(train_until_the_disk_is_full, folder).result()
    remount("size=64m")
    history = study.fit(build(), draw(20), draw(20), 2, fitting.open_run(folder))
    assert list(history["epoch"]) == [0, 1]
    assert "Training resumes after epoch 1 of 2" in capsys.readouterr().out

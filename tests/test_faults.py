"""A full disk and a read-only folder, on a small file system that is mounted for it."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import keras
import ocr
import pandas as pd
import pytest
from runs import ROOT, definitions


@pytest.fixture
def disk(tmp_path):
    """A folder on a file system of its own, and a function that mounts it anew with other options."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only the superuser may mount a file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder, lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def network(study):
    keras.utils.set_random_seed(0)
    return study.build_model("bilstm", study.Shape(50, 200, 1, 1.0), len(study.ALPHABET) + 1)


def export(study, network, app):
    """Export and swap in as the notebook does."""
    new = app / "unfinished_export"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    numbers = {character: number for number, character in enumerate(study.ALPHABET, start=1)}
    study.export(network, 1.0, numbers, study.Shape(50, 200, 1, 1.0), {"alphabet": study.ALPHABET}, new)
    study.swap_in(new)


def copy_app(folder):
    app = folder / "app"
    app.mkdir()
    for name in ("char_to_num", "num_to_char"):
        shutil.copy(ROOT / "demo_app" / name, app)
    shutil.copytree(ROOT / "demo_app" / "ocr_model", app / "ocr_model")
    return app


@pytest.mark.parametrize("left", [0, 300_000, 650_000])
def test_a_full_disk_leaves_the_old_model(study, network, disk, left):
    """How much is left decides how far the export comes."""
    folder, remount = disk
    app = copy_app(folder)
    example = next((ROOT / "demo_app" / "Examples").iterdir())
    free = shutil.disk_usage(folder).free
    (folder / "filler").write_bytes(bytes(max(0, free - left)))
    with pytest.raises(Exception, match=r"(?i)no space|RESOURCE_EXHAUSTED|Errno 28"):
        export(study, network, app)
    assert ocr.Recognizer(app).read(example).text == example.stem
    (folder / "filler").unlink()
    remount("size=16m")
    export(study, network, app)
    assert "exact_match" not in ocr.Recognizer(app).about  # the new one


def test_a_read_only_folder_leaves_the_old_model(study, network, disk):
    folder, remount = disk
    app = copy_app(folder)
    remount("ro")
    with pytest.raises(OSError, match="Read-only"):
        export(study, network, app)
    assert "exact_match" in ocr.Recognizer(app).about
    remount("rw")


def test_half_a_backup_is_no_obstacle(study, network, tmp_path):
    study.set_up(network, keras.optimizers.Adam())
    network.optimizer.build(network.trainable_variables)
    backup = study.Backup(tmp_path / "backup", double_checkpoint=True, delete_checkpoint=False)
    backup.set_model(network)
    for epoch in range(2):
        backup.on_epoch_end(epoch)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "backup").iterdir()}
    size = len(whole["latest.weights.h5"])
    for length in (0, 1, 96, 2048, 2600, 6144, 8000, *range(10_000, size, size // 15), size - 1):
        for name, content in whole.items():
            (tmp_path / "backup" / name).write_bytes(content)
        (tmp_path / "backup" / "latest.weights.h5").write_bytes(whole["latest.weights.h5"][:length])
        network._initial_epoch = None
        backup.on_train_begin()
        assert network._initial_epoch == 1


def train_briefly(images, run, epochs=2):
    """Train on a folder of images for a few epochs."""
    study = sys.modules.get("study") or definitions()
    table, _, shape = study.scan(images, "(.+)")
    numbers = {character: number for number, character in enumerate(study.ALPHABET, start=1)}
    data = study.read_images(table, numbers, shape, 5)
    model = study.build_model("bilstm", shape, len(study.ALPHABET) + 1)
    return study.train(model, data, data, epochs, run)


@pytest.mark.parametrize(
    ("losses", "over"),
    [
        ([], False),
        ([0, 0, 0], False),
        ([9, 9, 9, 1, 2], False),
        ([9, 9, 9, 1, 2, 3], True),
        ([1, 1, 1, 9, 8, 7], False),
    ],
)
def test_a_run_is_over_when_its_latter_half_gets_no_better(study, monkeypatch, losses, over):
    monkeypatch.setattr(study, "PATIENCE", 2)
    assert study.is_over(pd.Series(losses, dtype=float), 6) == over


def test_a_run_that_ends_early_keeps_its_best_epoch_and_stays_ended(study, tmp_path, monkeypatch, capsys):
    images, run = study.draw_dataset(study.FEW, 0, tmp_path / "images"), tmp_path / "run"

    def rewrite(losses):
        history.drop(columns="kept").assign(val_loss=losses).to_csv(run / "log.csv", index=False)

    monkeypatch.setattr(study, "PATIENCE", 0)
    history = train_briefly(images, run, 6)
    assert len(history) == 4
    rewrite([3, 2, 2, 0])
    monkeypatch.setattr(study, "PATIENCE", 1)
    history = train_briefly(images, run, 6)  # an epoch more, which can't be better than 0
    assert list(history["kept"]) == [False, False, False, True, False]
    capsys.readouterr()
    assert list(train_briefly(images, run, 6)["kept"]) == list(history["kept"])
    assert "5 of 6 epochs were done before" in (said := capsys.readouterr().out)
    assert "it got no better" in said
    rewrite(None)  # as if it had diverged
    (run / "best.weights.h5").unlink()
    assert list(train_briefly(images, run, 6)["kept"]) == [False] * 4 + [True]
    assert "not saved whole" in capsys.readouterr().out


def test_training_goes_on_after_the_disk_was_full(study, disk, tmp_path):
    folder, remount = disk
    arguments = study.draw_dataset(20, 0, tmp_path / "images"), folder / "run"

    def in_a_process():
        # HDF5 crashes when a process ends that could not close a file (github.com/h5py/h5py/issues/914).
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(train_briefly, *arguments).result()

    with pytest.raises(Exception, match=r"(?i)no space|RESOURCE_EXHAUSTED|errno 28|unable to|failed"):
        in_a_process()
    remount("size=64m")
    assert list(in_a_process()["epoch"]) == [0, 1]
    assert len(pd.read_csv(folder / "run" / "log.csv")) >= 2

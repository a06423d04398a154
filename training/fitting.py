"""What surrounds training: its progress, caches, and each run's folder, in which a stopped run goes on."""

import hashlib
import json
import math
import os
import platform
import shutil
import statistics
import time
import weakref
import zipfile
from contextlib import ExitStack
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import psutil
import tensorflow as tf
from filelock import FileLock
from ocr import MANIFEST, ModelError, Recognizer

from training.locking import hold, temporary_folder
from training.machines import is_chief
from training.writing import TO_LATIN

START = Path(__file__).parent / "start"  # an export that has learnt letters


class EpochLine(keras.callbacks.Callback):
    """Prints a line per epoch that reads well in a notebook, a terminal and a log; logs its `seconds`."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.seconds = []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if epoch and not self.seconds:
            print(f"Training resumes after epoch {epoch} of {self.params['epochs']}.", flush=True)
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        logs["seconds"] = time.perf_counter() - self.start
        self.seconds.append(logs["seconds"])
        epochs = self.params["epochs"]
        done = 20 * (epoch + 1) // epochs
        left = ""
        if len(self.seconds) > 1 and epoch + 1 < epochs:  # the first takes longer than the others
            rest = (epochs - epoch - 1) * statistics.median(self.seconds[1:])
            left = ", {}:{:02} left".format(*divmod(round(rest), 60))
        print(
            f"epoch {epoch + 1:3}/{epochs} {'█' * done:░<20} "
            f"loss {logs['loss']:7.4f} exact match {logs['exact_match']:6.1%}   validation: "
            f"loss {logs['val_loss']:7.4f} exact match {logs['val_exact_match']:6.1%}   "
            f"{logs['seconds']:.1f} s{left}",
            flush=True,
        )

    def on_train_end(self, logs: dict | None = None) -> None:
        if not self.seconds:
            print(f"All {self.params['epochs']} epochs are already done.", flush=True)


def image_bytes(data: tf.data.Dataset) -> int:
    """Count the bytes of one image of a data set whose images all have the same shape."""
    return data.element_spec[0].dtype.size * math.prod(data.element_spec[0].shape)


def shuffle_buffer(data: tf.data.Dataset) -> int:
    """Say how many images of a data set to shuffle at once: all, or as many as fill a 16th of the memory."""
    return min(int(data.cardinality()), psutil.virtual_memory().total // 16 // image_bytes(data))


def cache(data: tf.data.Dataset, folder: Path, memory: int | None = None) -> tf.data.Dataset:
    """Cache images: in memory if they take at most a quarter of it, else in a temporary folder.

    Args:
        data: Images of one shape, and what belongs to them; with a known cardinality.
        folder: Gets the temporary folder, which is deleted with the data set, at the latest with the process
            or, if that is killed, by a later one.
        memory: In bytes; None is this machine's.
    """
    if image_bytes(data) * int(data.cardinality()) <= (memory or psutil.virtual_memory().total) / 4:
        return data.cache()
    stack = ExitStack()
    cached = data.cache(str(stack.enter_context(temporary_folder(folder, "cache_")) / "images"))
    weakref.finalize(cached, stack.close)
    return cached


_held: list[FileLock] = []  # of the run that this process is in


def open_run(runs: Path, *identity: object) -> Path:
    """Give the folder of a run: the same for the same identity, empty unless the run can go on in it.

    Where a stop or a full disk left half a backup, the one before takes its place. The folder is this
    process's alone until it ends or opens another one. Of several machines, only the chief locks and writes.

    Args:
        runs: Holds the folders.
        *identity: Whatever tells this run from others, for JSON, or else by its `str`.

    Raises:
        RuntimeError: If another process is in this run.
    """
    digest = hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()
    run = runs / digest[:12]
    weights, state = run / "backup" / "latest.weights.h5", run / "backup" / "training_metadata.json"
    if is_chief():
        run.mkdir(parents=True, exist_ok=True)
        _hold(run)
        if not _is_whole(best := run / "best.weights.h5", state):
            best.unlink(missing_ok=True)  # from half a file, HDF5 may read zeros
        if not _is_whole(weights, state):
            for path in (weights, state):
                if (before := path.with_name(f"{path.name}.bkp")).exists():
                    before.replace(path)
        if not _is_whole(weights, state):
            for item in set(run.iterdir()) - {run / "lock", run / "process.txt"}:
                shutil.rmtree(item) if item.is_dir() else item.unlink()
    return run


def _hold(run: Path) -> None:
    """Lock the folder of a run in place of the one before, and note in it who did."""
    while _held:
        _held.pop().release()
    owner, lock = run / "process.txt", hold(run)
    if not lock:
        holder = owner.read_text() if owner.exists() else "Another process"
        raise RuntimeError(
            f"{holder} is training in {run}. Wait until it ends, end it (in Jupyter, by restarting its "
            "kernel), or set WORK to another folder."
        )
    _held.append(lock)
    owner.write_text(f"Process {os.getpid()} on {platform.node()}")


def _is_whole(weights: Path, state: Path) -> bool:
    """Tell whether weights are complete: Keras writes those of an epoch first and its state last."""
    try:
        json.loads(state.read_bytes())
        return weights.stat().st_mtime_ns <= state.stat().st_mtime_ns
    except (OSError, ValueError):
        return False


def read_log(run: Path) -> pd.DataFrame:
    """Read the log of a run's folder: one row per epoch, from the last time that it was done.

    The validation loss of an epoch that diverged is infinite.
    """
    if not (run / "log.csv").exists():
        return pd.DataFrame(columns=["epoch", "val_loss"], dtype=float)
    log = pd.read_csv(run / "log.csv", on_bad_lines="skip")  # of a line half of which a stop left
    log = log.drop_duplicates("epoch", keep="last").sort_values("epoch", ignore_index=True)
    return log.fillna({"val_loss": np.inf})


def choose_epoch(model: keras.Model, run: Path, epochs: int) -> pd.DataFrame:
    """Keep the last epoch or, where that diverged or came early, load the one of least validation loss.

    Args:
        model: Has the weights of the last epoch.
        run: Folder with `log.csv` and `best.weights.h5`.
        epochs: As many as the run would have had.

    Returns:
        The log, with the column `kept` that marks the epoch.

    Raises:
        ValueError: If the loss of no epoch is a number.
    """
    history = read_log(run)
    kept = history.index[-1]
    if not np.isfinite(history["val_loss"]).any():
        raise ValueError("The training diverged: its loss is no number. Set LEARNING_RATE lower.")
    is_early = history["epoch"].iloc[-1] + 1 < epochs  # a row may be torn
    if is_early or not np.isfinite(history["val_loss"][kept]):
        try:
            model.load_weights(run / "best.weights.h5")
            kept = history["val_loss"].idxmin()
        except OSError as error:
            if not is_early:
                raise ValueError("The training diverged at its end. Set LEARNING_RATE lower.") from error
            print("The best epoch was not saved completely, so the last one is kept.")
    return history.assign(kept=history.index == kept)


def load_start(model: keras.Model, start: str | Path, alphabet: str) -> list[str]:
    """Take the weights of the layers that another network has too, with the same names and shapes.

    A first layer for grey also fits colour. The last layer, `logits`, takes the weights of the blank and of
    characters that both networks know or that look the same; other characters get their mean.

    Args:
        model: Gets the weights.
        start: "letters", the start that comes with the notebook; a folder of an export; a .keras file, which
            gives no last layer, for it doesn't say its alphabet.
        alphabet: Of the model.

    Returns:
        The names of the layers that were taken.

    Raises:
        ValueError: If it is none of these, or, unless it is "letters", no layer fits.
    """
    source = START if start == "letters" else Path(start)
    path, known = source, ""
    try:
        if not source.is_dir() and not source.is_file():  # a pipe or a device might never end
            raise FileNotFoundError("there is no such folder or file")
        if source.is_dir():
            recognizer = Recognizer(source)  # checks the files
            path = recognizer.folder / MANIFEST.with_name("network.keras")
            known = recognizer.about["alphabet"]
        kinds = {type(layer).__name__: type(layer) for layer in model.layers}  # the reader's own ones, too
        saved = keras.models.load_model(path, kinds, compile=False)
    except (ModelError, OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"START {source} can't be used: {error}") from error
    given = {layer.name: layer.get_weights() for layer in saved.layers}
    taken = []
    for layer in model.layers:
        values = given.get(layer.name, [])
        if layer.name == "conv_1" and values and values[0].shape[2] != (channels := layer.kernel.shape[2]):
            values[0] = np.repeat(values[0].sum(axis=2, keepdims=True) / channels, channels, axis=2)
        elif layer.name == "logits":
            values = take_characters(values, known, alphabet) if known else []
        if layer.weights and [value.shape for value in values] == [w.shape for w in layer.weights]:
            layer.set_weights(values)
            taken.append(layer.name)
    if not taken and start != "letters":
        raise ValueError(
            f"START {source} has no layer that fits. Use the ARCHITECTURE and SIZE of that model."
        )
    return taken


def digest(model: keras.Model) -> str:
    """Return the SHA-256 of a network's weights."""
    return hashlib.sha256(b"".join(part.tobytes() for part in model.get_weights())).hexdigest()


def take_characters(values: list[np.ndarray], known: str, alphabet: str) -> list[np.ndarray]:
    """Choose from the weights of a last layer those of the blank and of the characters of an alphabet."""
    numbers = {character: number for number, character in enumerate(known, start=1)}
    found = [numbers.get(character, numbers.get(character.translate(TO_LATIN))) for character in alphabet]
    rows = [number for number in found if number] or [*numbers.values()]
    return [
        np.stack(
            [value[..., 0]]
            + [value[..., number] if number else value[..., rows].mean(axis=-1) for number in found],
            axis=-1,
        )
        for value in values
    ]

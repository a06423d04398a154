"""Writes a trained network as the files that `demo_app` loads, and puts them in place of the old ones."""

import json
import pickle
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import tensorflow as tf
from keras import layers
from network import Shape, quiet
from ocr import MANIFEST, describe_files
from PIL import Image

from training.looks import MONO, drawable
from training.machines import is_chief
from training.synthetic import draw_text, render


class FusedBidirectional(layers.Layer):
    """Gives what a `Bidirectional` LSTM gives, with one operation per direction, not a loop over frames.

    `tf.raw_ops.BlockLSTMV2` is several times faster than the loop for one image, but slower in training.
    """

    def __init__(self, layer: layers.Bidirectional) -> None:
        super().__init__(name=layer.name)
        self.forward, self.backward = layer.forward_layer.cell, layer.backward_layer.cell

    def call(self, x: tf.Tensor, **_: object) -> tf.Tensor:
        """Map float32 (batch, frames, features) to float32 (batch, frames, 2 * units)."""

        def run(cell: layers.LSTMCell, x: tf.Tensor) -> tf.Tensor:
            state, peephole = tf.zeros([tf.shape(x)[1], cell.units]), tf.zeros([cell.units])
            return tf.raw_ops.BlockLSTMV2(
                seq_len_max=tf.shape(x, tf.int64)[0],
                x=x,
                cs_prev=state,
                h_prev=state,
                w=tf.concat([cell.kernel, cell.recurrent_kernel], axis=0),
                wci=peephole,
                wcf=peephole,
                wco=peephole,
                b=tf.convert_to_tensor(cell.bias),
                cell_clip=0.0,
            ).h

        x = tf.transpose(x, [1, 0, 2])  # (frames, batch, features)
        backward = tf.reverse(run(self.backward, tf.reverse(x, [0])), [0])
        return tf.transpose(tf.concat([run(self.forward, x), backward], axis=2), [1, 0, 2])

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Shape of the output for a shape of the input."""
        return (*input_shape[:2], 2 * self.forward.units)


def export(
    model: keras.Model,
    preprocess: Callable[[tf.Tensor, Shape], tf.Tensor],
    temperature: float,
    char_to_num: dict[str, int],
    shape: Shape,
    about: dict[str, Any],
    folder: Path,
) -> None:
    """Write `ocr_model`, `ocr_model.onnx`, `char_to_num` and `num_to_char` into a new folder.

    `ocr_model` is a SavedModel: `serve` takes uint8 (batch, height, width, channels) of any height and width
    and returns softmax outputs, float32 (batch, frames, classes). The ONNX file takes what `prepare` of the
    app makes of such images. The folder `assets.extra`, where a SavedModel keeps its user's files, holds
    `about.json`, which the app shows, `network.keras`, from which another training can start, and a manifest
    of all files, which the app checks.

    Raises:
        SystemExit: On a machine that is not the chief.
    """
    if not is_chief():
        sys.exit("This machine is done. The chief exports the network.")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
    folder.mkdir(parents=True)
    # Without loss and metric, which can be neither cloned nor saved.
    network = keras.Model(model.input, model.output)
    fused = keras.models.clone_model(
        network,
        clone_function=lambda layer: (
            FusedBidirectional(layer) if isinstance(layer, layers.Bidirectional) else layer
        ),
    )

    def serve(images: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(fused(preprocess(images, shape), training=False) / temperature)

    archive = keras.export.ExportArchive()
    archive.add_endpoint("serve", serve, [tf.TensorSpec([None, None, None, shape.channels], tf.uint8)])
    archive.write_out(folder / "ocr_model", verbose=False)
    extra = folder / "ocr_model" / "assets.extra"
    extra.mkdir()
    write_json(about, extra / "about.json")
    network.save(extra / "network.keras")
    export_onnx(network, temperature, about, folder / "ocr_model.onnx")
    num_to_char = {number: character for character, number in char_to_num.items()}
    for name, mapping in (("char_to_num", char_to_num), ("num_to_char", num_to_char)):
        (folder / name).write_bytes(pickle.dumps(mapping, protocol=4))
    write_json(describe_files(folder), folder / MANIFEST)


def export_onnx(network: keras.Model, temperature: float, about: dict[str, Any], path: Path) -> None:
    """Write a network as an ONNX file that says by itself what it takes and gives.

    One that can't be written so is left out, and a line says why.
    """
    calibrated = keras.Model(network.input, keras.ops.softmax(network.output / temperature))
    calibrated(np.zeros([1, *network.input.shape[1:]], np.float32))  # Keras exports only what was called
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of numpy, at Keras
            calibrated.export(path, format="onnx", verbose=False)
            onnxruntime.InferenceSession(path)  # the converter also writes what can't be run
    except OSError:  # a full disk is no matter of the network
        raise
    except Exception as error:  # noqa: BLE001, whatever the converter raises
        path.unlink(missing_ok=True)
        print(f"This network can't be exported as ONNX ({' '.join(str(error).split())[:200]}).")
        return
    content = onnx.load(path)
    facts = {
        name: json.dumps(about[name], ensure_ascii=False)
        for name in ("alphabet", "lengths", "shape", "threshold")
    }
    onnx.helper.set_model_props(content, facts)
    onnx.save(content, path)


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write JSON that is the same on all systems."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def add_examples(folder: Path, test: pd.DataFrame, kind: str, characters: list[str], seed: int) -> None:
    """Put ten images for the app's visitors to click on into the folder's `Examples`.

    Args:
        folder: Of an export.
        test: The test split, with `path` and `label`.
        kind: "test" for images of the test split; "synthetic" where these may not be passed on.
        characters: The alphabet, for synthetic images; where none can be drawn, none are.
        seed: Chooses the images.
    """
    (folder / "Examples").mkdir()
    some = test.sample(min(10, len(test)), random_state=seed)
    if kind == "test":
        for number, path in enumerate(map(Path, some["path"])):
            target = folder / "Examples" / path.name
            shutil.copy(path, target.with_name(f"{number}_{path.name}") if target.exists() else target)
        return
    rng = np.random.default_rng(seed + 1)
    if able := [character for character in characters if character in drawable(MONO) and character != " "]:
        for like in some["label"]:
            text = draw_text(like, able, rng)
            name = re.sub(r"[^\w-]", "_", text)  # a text may hold what no file's name can
            Image.fromarray(render(text, rng)).save(folder / "Examples" / f"{name}.png")


def swap_in(new: Path) -> None:
    """Move the contents of the folder `new` to its parent, in place of what has the same names there.

    The step that counts is a rename: from then on `Recognizer` prefers `new_export`. Wherever this is
    interrupted, the app reads the whole old model or the whole new one. The next swap first ends this one.
    """
    ready, done = new.with_name("new_export"), new.with_name("old_export")
    shutil.rmtree(done, ignore_errors=True)
    for source in (ready, new):
        if source.exists():
            source.rename(ready)
            ready.with_name("ocr_model.onnx").unlink(missing_ok=True)  # not every network has one
            for item in ready.iterdir():
                target = ready.with_name(item.name)
                shutil.rmtree(target, ignore_errors=True)
                copy = shutil.copytree if item.is_dir() else shutil.copy
                copy(item, target)
            shutil.rmtree(ready.rename(done))

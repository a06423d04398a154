"""A small network with its images, and one of the machines that train it together.

`python machine.py RUNS EPOCHS`, with `TF_CONFIG`, trains without what differs from one machine to several:
augmentation, and Muon, which clips gradients on each machine; and so slowly that the last digits, in which
sums of another order differ, stay the last ones.
"""

import json
import os
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from training import fitting, machines

ABOUT = {
    "dataset": "strokes",
    "date": "2026-01-01",
    "alphabet": "abc",
    "lengths": [2, 2],
    "shape": {"height": 8, "width": 24, "channels": 1, "stretch": 1.0, "lines": 1},
    "split": {"train": 1, "validation": 1, "test": 1},
    "split_by": "image",
    "threshold": None,
    "start_from": None,
    "exact_match": 1,
    "exact_match_interval": [0, 1],
    "cer": 0,
}


def draw(count):
    """Images as the notebook prepares them, of two strokes, and label ids, of the strokes' heights."""
    label_ids = np.random.default_rng(0).integers(1, 4, (count, 2), np.int32)
    images = np.zeros((count, 24, 8, 1), np.float32)
    for image, (first, second) in zip(images, label_ids, strict=True):
        image[4:8, 2 * first] = image[14:18, 2 * second] = 1
    return tf.data.Dataset.from_tensor_slices((images, label_ids))


def build():
    """A network for them, with batch normalisation."""
    keras.utils.set_random_seed(1)
    image = keras.Input((24, 8, 1), name="image")
    x = layers.Conv2D(8, 3, (2, 1), padding="same", use_bias=False, name="conv")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(momentum=0.9, name="norm")(x))
    x = layers.Dense(16, "relu", name="dense")(layers.Reshape((12, 64), name="columns")(x))
    return keras.Model(image, layers.Dense(4, name="logits")(x))


def train(study, run, epochs):
    """Train with the notebook's functions; return the history and the loss of what is left in the network."""
    study.make_optimizer = lambda rate, steps: keras.optimizers.SGD(rate)
    model, data = build(), draw(66)
    history = study.fit(model, data, data, epochs, run, peak_rate=2e-4, batch_size=32, strength=0.0)
    after = model.evaluate(study.make_batches(data, False), verbose=0, return_dict=True)["loss"]
    return history[["epoch", "loss", "val_loss"]].to_dict("list") | {"after": after}


def check_folder(run):
    """Machines that name different folders must not train."""
    try:
        with machines.share(build(), run if machines.is_chief() else run / "elsewhere", 32):
            raise AssertionError("they train")
    except ConnectionError as error:
        assert "The machines don't see the same files" in str(error)


if __name__ == "__main__":
    from runs import notebook_functions

    machines.join()
    run = fitting.open_run(Path(sys.argv[1]))
    if "TF_CONFIG" in os.environ:
        check_folder(run)
    print(json.dumps(train(notebook_functions(), run, int(sys.argv[2]))))

"""What surrounds training: progress, caches, folders of runs in which a stopped one goes on, a start."""

import gc
import os
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from machine import ABOUT, build, draw
from network import Shape

from training import exporting, fitting
from training.locking import hold


def test_a_line_an_epoch_with_the_time_left(capsys):
    line, logs = fitting.EpochLine(), {"loss": 1, "exact_match": 0.25, "val_loss": 2, "val_exact_match": 1}
    line.set_params({"epochs": 4})
    line.on_train_begin()
    for epoch in (2, 3):
        line.on_epoch_begin(epoch)
        line.on_epoch_end(epoch, logs)
    line.on_train_end()
    assert logs["seconds"] > 0
    before, third, fourth = capsys.readouterr().out.splitlines()
    assert before == "Training resumes after epoch 2 of 4."
    assert re.fullmatch(
        r"epoch   3/4 █{15}░{5} loss  1\.0000 exact match  25\.0%   "
        r"validation: loss  2\.0000 exact match 100\.0%   0\.0 s",  # the first epoch tells too little
        third,
    )
    assert fourth.startswith("epoch   4/4") and "left" not in fourth
    line.seconds, line.start = [5.0, 125.0, 130.0], 0.0  # another epoch of much longer
    line.set_params({"epochs": 5})
    line.on_epoch_end(3, logs)
    assert capsys.readouterr().out.endswith(", 2:10 left\n")
    line.on_train_begin()
    line.on_train_end()
    assert capsys.readouterr().out == "All 5 epochs are already done.\n"


def test_images_that_fill_the_memory_are_cached_on_disk(tmp_path):
    data, folder = draw(20), tmp_path / "work"
    expected = [image for image, _ in data.as_numpy_iterator()]
    size = fitting.image_bytes(data)
    assert size == expected[0].nbytes and fitting.shuffle_buffer(data) == 20
    fitting.cache(data, folder, memory=4 * 20 * size)
    assert not folder.exists()
    batches = fitting.cache(data, folder, memory=4 * 20 * size - 1).batch(20)
    for _ in range(2):
        ((images, _),) = batches.as_numpy_iterator()
        np.testing.assert_array_equal(images, expected)
    (place,) = folder.iterdir()
    assert sum(path.stat().st_size for path in place.iterdir()) >= 20 * size
    del batches
    gc.collect()
    assert not list(folder.iterdir())


def test_a_run_has_a_folder_of_its_own(tmp_path, monkeypatch):
    identity = ["model", {"EPOCHS": None}, Path("x")]
    run = fitting.open_run(tmp_path, *identity)
    assert run.parent == tmp_path and run.is_dir() and re.fullmatch("[0-9a-f]{12}", run.name)
    assert fitting.open_run(tmp_path, *identity) == run != fitting.open_run(tmp_path, "model", 1)
    (run / "log.csv").touch()
    task = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
    with monkeypatch.context() as patch:
        patch.setenv("TF_CONFIG", task)
        assert fitting.open_run(tmp_path, *identity) == run and list(run.iterdir())
        assert not fitting.open_run(tmp_path, "nothing").exists()
    fitting.open_run(tmp_path, *identity)
    assert not (run / "log.csv").exists()


def test_a_run_belongs_to_one_process(tmp_path):
    run = fitting.open_run(tmp_path, "one")
    fitting.open_run(tmp_path, "another")  # gives the first one back
    lock = hold(run)  # as another process would
    with pytest.raises(
        RuntimeError, match=rf"Process {os.getpid()} on .* is training in {run}\. Wait until it ends"
    ):
        fitting.open_run(tmp_path, "one")
    lock.release()
    assert fitting.open_run(tmp_path, "one") == run


WEIGHTS, STATE = "latest.weights.h5", "training_metadata.json"


@pytest.fixture(scope="module")
def backup(tmp_path_factory):
    """Keras's callback with its network, and the files that it leaves after 0, 1, 2 and 3 epochs.

    All weights are the number of epochs that are done.
    """
    folder = tmp_path_factory.mktemp("backup")
    callback = keras.callbacks.BackupAndRestore(folder, double_checkpoint=True, delete_checkpoint=False)
    model = build()
    model.compile(keras.optimizers.SGD(), loss="mse")
    model.optimizer.build(model.trainable_variables)
    callback.set_model(model)
    left = [{}]
    for epoch in range(3):
        model.set_weights([np.full(weight.shape, epoch + 1) for weight in model.weights])
        callback.on_epoch_end(epoch)
        left.append({path.name: path.read_bytes() for path in folder.iterdir()})
    return callback, left


def go_on(callback, run, writes):
    """Write files into a run's backup, one after the other; return how many epochs are restored."""
    folder = run / "backup"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for second, (name, content) in enumerate(writes):
        (folder / name).write_bytes(content)
        os.utime(folder / name, (second, second))
    assert fitting.open_run(run.parent) == run
    model, callback.backup_dir = callback.model, folder
    for name in (
        "_weights_path",
        "_prev_weights_path",
        "_training_metadata_path",
        "_prev_training_metadata_path",
    ):
        setattr(callback, name, str(folder / Path(getattr(callback, name)).name))
    model._initial_epoch = 0
    model.set_weights([np.zeros(weight.shape) for weight in model.weights])
    callback.on_train_begin()
    assert {value for weight in model.get_weights() for value in weight.flat} == {model._initial_epoch}
    return model._initial_epoch


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_stop_in_the_middle_of_a_backup_loses_no_other_epoch(backup, tmp_path, done):
    """Keras copies weights and state, then writes both anew."""
    callback, left = backup
    run, before, after = fitting.open_run(tmp_path), left[done], left[done + 1]
    names = [name for name in (f"{WEIGHTS}.bkp", f"{STATE}.bkp", WEIGHTS, STATE) if name in after]
    whole = [
        (name, before[name]) for name in (f"{WEIGHTS}.bkp", f"{STATE}.bkp", WEIGHTS, STATE) if name in before
    ]
    for number, name in enumerate(names):
        written = [(name, after[name]) for name in names[:number]]
        size = len(after[name])
        for length in (0, 5, size // 2, size - 1, size):
            writes = [*whole, *written, (name, after[name][:length])]
            restored = done + (name == STATE and length == size)
            assert go_on(callback, run, writes) == restored, (name, length)


def test_half_a_best_epoch_is_deleted(tmp_path):
    run = fitting.open_run(tmp_path)
    (run / "backup").mkdir()
    for name, second in (("best.weights.h5", 2), (f"backup/{WEIGHTS}", 3), (f"backup/{STATE}", 4)):
        (run / name).write_text('{"epoch": 1}')
        os.utime(run / name, (second, second))
    assert (fitting.open_run(tmp_path) / "best.weights.h5").exists()
    os.utime(run / "best.weights.h5", (5, 5))
    fitting.open_run(tmp_path)
    assert not (run / "best.weights.h5").exists() and (run / "backup" / STATE).exists()


def test_weights_that_did_not_reach_the_disk_are_no_obstacle(backup, tmp_path):
    """Where the power fails, a file that was written later may be whole."""
    callback, left = backup
    run, files = fitting.open_run(tmp_path), left[3]
    size = len(files[WEIGHTS])
    for length in (0, 1, 96, 2048, 2600, 6144, 8000, *range(9000, size, size // 8), size - 1):
        half = files | {WEIGHTS: files[WEIGHTS][:length]}
        assert go_on(callback, run, [(name, half[name]) for name in sorted(half)]) == 2


def test_the_log_has_one_row_per_epoch(tmp_path):
    assert list(fitting.read_log(tmp_path)) == ["epoch", "val_loss"] and len(fitting.read_log(tmp_path)) == 0
    rows = ["0,3,9", "1,nan,8", "3,0,0", "2,1.5,7", "2,1,0,2,1,6", "2,1,6"]  # one line runs into the next
    (tmp_path / "log.csv").write_text("\n".join(["epoch,val_loss,loss", *rows]))
    log = fitting.read_log(tmp_path)
    assert log.values.tolist() == [[0, 3, 9], [1, np.inf, 8], [2, 1, 6], [3, 0, 0]]


def test_the_last_epoch_is_kept_or_the_best_one_of_a_run_that_ended_early(tmp_path, capsys):
    pd.DataFrame({"epoch": range(3), "val_loss": [3, 1, 2]}).to_csv(tmp_path / "log.csv", index=False)
    best, last = build(), build()
    best.set_weights([weight + 1 for weight in best.get_weights()])

    def choose(epochs):
        kept, model = list(fitting.choose_epoch(last, tmp_path, epochs)["kept"]), last.get_weights()
        is_best = all(map(np.array_equal, model, best.get_weights()))
        assert is_best or all(map(np.array_equal, model, build().get_weights()))
        return kept, is_best

    assert choose(3) == ([False, False, True], False)
    for write in (lambda file: None, lambda file: file.write_bytes(b"half")):
        write(tmp_path / "best.weights.h5")
        assert choose(4) == ([False, False, True], False)
        assert "not saved completely" in capsys.readouterr().out
    best.save_weights(tmp_path / "best.weights.h5")
    assert choose(4) == ([False, True, False], True)
    (tmp_path / "log.csv").write_text("epoch,val_loss\n0,3\n2,1\n3,2\n")  # the row of an epoch was torn
    last.set_weights(build().get_weights())
    assert choose(4) == ([False, False, True], False)
    (tmp_path / "log.csv").write_text("epoch,val_loss\n0,3\n1,1\n2,nan\n")
    assert choose(3) == ([False, True, False], True)
    (tmp_path / "log.csv").write_text("epoch,val_loss\n0,nan\n1,nan\n2,nan\n")
    with pytest.raises(ValueError, match="diverged"):
        choose(3)


def test_a_run_that_diverges_keeps_what_was_best(study, tmp_path):
    """Keras's callbacks, as the notebook makes them, would take the first epoch for the best one."""
    model = build()
    model.compile(keras.optimizers.SGD(), loss="mse", metrics=[study.exact_match])
    best = model.get_weights()
    callbacks = study.make_callbacks(tmp_path, epochs=8, patience=2)
    watch = keras.callbacks.CallbackList(callbacks, model=model, epochs=8)
    watch.on_train_begin()
    for epoch, loss in enumerate([np.nan, 2, 1, 3, np.nan, np.nan, np.nan, np.nan]):
        watch.on_epoch_begin(epoch)
        model.set_weights(best if loss == 1 else [weight + 1 for weight in best])
        watch.on_epoch_end(epoch, {"loss": loss, "val_loss": loss, "exact_match": 0, "val_exact_match": 0})
        if model.stop_training:
            break
    watch.on_train_end()
    assert epoch == 6  # the latter half begins with 4
    history = fitting.choose_epoch(model, tmp_path, 8)
    assert list(history.index[history["kept"]]) == [2]
    assert all(map(np.array_equal, model.get_weights(), best))


def test_a_run_goes_on_where_it_was_stopped(study, tmp_path, capsys):
    run, data, model = fitting.open_run(tmp_path, "run"), draw(20), build()
    study.fit(build(), data, data, 1, run)
    assert fitting.open_run(tmp_path, "run") == run
    capsys.readouterr()
    history = study.fit(model, data, data, 2, run)
    assert list(history["epoch"]) == [0, 1] and list(history["kept"]) == [False, True]
    assert capsys.readouterr().out.startswith("Training resumes after epoch 1 of 2.\nepoch   2/2")
    again = build()
    assert study.fit(again, data, data, 2, run).equals(history)
    assert capsys.readouterr().out == "All 2 epochs are already done.\n"
    assert all(map(np.array_equal, again.get_weights(), model.get_weights()))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The export of a small network."""
    folder = tmp_path_factory.mktemp("exported")
    network, alphabet = build(), {"a": 1, "b": 2, "c": 3}

    def preprocess(images, shape):
        size = [shape.width, shape.height]
        return keras.ops.image.resize(keras.ops.cast(images, "float32"), size) / 255

    exporting.export(network, preprocess, 1.0, alphabet, Shape(8, 24, 1, 1.0), ABOUT, folder)
    return folder


def other_network(classes=4, filters=8):
    """A network like the small one, with a layer more before those that have the same names."""
    layers = keras.layers
    image = keras.Input((24, 8, 1), name="image")
    x = layers.Conv2D(1, 3, padding="same", use_bias=False, name="first")(image)
    x = layers.Conv2D(filters, 3, (2, 1), padding="same", use_bias=False, name="conv")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.Dense(16, "relu", name="dense")(layers.Reshape((12, -1), name="columns")(x))
    return keras.Model(image, layers.Dense(classes, name="logits")(x))


def test_a_network_starts_from_the_layers_of_another(exported, tmp_path):
    given = build()  # the same weights as in the export
    given.save(tmp_path / "saved.keras")
    for source, model, alphabet, expected in [
        (exported, build(), "abc", ["conv", "norm", "dense", "logits"]),
        (tmp_path / "saved.keras", build(), "abc", ["conv", "norm", "dense"]),
        (exported, other_network(filters=4), "abc", ["logits"]),
    ]:
        model.set_weights([weight + 1 for weight in model.get_weights()])
        before = {layer.name: layer.get_weights() for layer in model.layers}
        assert fitting.load_start(model, source, alphabet) == expected
        for layer in model.layers:
            wanted = (
                given.get_layer(layer.name).get_weights() if layer.name in expected else before[layer.name]
            )
            assert all(map(np.array_equal, layer.get_weights(), wanted))


def test_another_alphabet_takes_the_characters_that_both_know(exported):
    given, model = build().get_layer("logits"), other_network(classes=5)
    assert "logits" in fitting.load_start(model, exported, "cсxa")  # the second one is Cyrillic
    for mine, theirs in zip(model.get_layer("logits").get_weights(), given.get_weights(), strict=True):
        blank, a, _, c = np.moveaxis(theirs, -1, 0)
        wanted = [blank, c, c, np.mean([c, c, a], axis=0), a]
        np.testing.assert_allclose(np.moveaxis(mine, -1, 0), wanted, rtol=1e-5)


def test_a_network_for_colour_starts_from_one_for_grey(tmp_path):
    networks = []
    for channels in (1, 3):
        image = keras.Input((24, 8, channels), name="image")
        x = keras.layers.Conv2D(8, 3, name="conv_1")(image)
        networks.append(keras.Model(image, x))
    networks[0].save(tmp_path / "grey.keras")
    assert fitting.load_start(networks[1], tmp_path / "grey.keras", "") == ["conv_1"]
    image = np.random.default_rng(0).normal(size=(1, 24, 8, 1)).astype(np.float32)
    grey, colour = (
        network(np.repeat(image, channels, axis=3))
        for network, channels in zip(networks, (1, 3), strict=True)
    )
    np.testing.assert_allclose(colour, grey, atol=1e-5)


class Own(keras.layers.Dense):
    """A layer of the reader's."""


def test_a_network_with_a_layer_of_ones_own_is_no_obstacle(tmp_path):
    image = keras.Input((24, 8, 1), name="image")
    model = keras.Model(image, Own(3, name="own")(image))
    model.save(tmp_path / "own.keras")
    assert fitting.load_start(model, tmp_path / "own.keras", "ab") == ["own"]


def test_a_start_that_is_none_ends_in_a_sentence(exported, tmp_path):
    network = build()
    network.save(tmp_path / "whole.keras")
    content = (tmp_path / "whole.keras").read_bytes()
    (tmp_path / "half.keras").write_bytes(content[: len(content) // 2])
    (tmp_path / "damaged.keras").write_bytes(content[:-5000] + bytes(100) + content[-4900:])
    network.save_weights(tmp_path / "only.weights.h5")
    changed = shutil.copytree(exported, tmp_path / "changed")
    (changed / "ocr_model" / "assets.extra" / "network.keras").write_bytes(content[:-1])
    for name in ("nowhere", "nowhere.keras", "half.keras", "damaged.keras", "only.weights.h5", "changed", ""):
        with pytest.raises(ValueError, match=rf"START .*{re.escape(name)} can't be used"):
            fitting.load_start(network, tmp_path / name, "abc")
    image = keras.Input((24, 8, 1), name="image")
    stranger = keras.Model(image, keras.layers.Dense(5, name="conv")(image))
    with pytest.raises(ValueError, match=r"START .* has no layer that fits\. Use the ARCHITECTURE and SIZE"):
        fitting.load_start(stranger, exported, "abc")

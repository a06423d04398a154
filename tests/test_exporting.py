"""Networks, what is exported of them, and the exchange of an old export for a new one."""

import json
import shutil
from pathlib import Path

import app
import keras
import numpy as np
import ocr
import onnxruntime
import pandas as pd
import pytest
import tensorflow as tf
from images import open_image
from network import Shape, prepare

from training import exporting, networks
from training.synthetic import ALPHABET, draw_dataset

SHAPE = Shape(50, 200, 1, 1.0)
ABOUT = {
    "alphabet": ALPHABET,
    "lengths": [5, 5],
    "shape": SHAPE._asdict(),
    "threshold": None,
    "start_from": None,
    "dataset": "synthetic",
    "split": {"train": 1, "validation": 1, "test": 1},
    "split_by": "image",
    "exact_match": 0.0,
    "exact_match_interval": [0.0, 1.0],
    "cer": 1.0,
    "date": "2026-01-01",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = draw_dataset(12, 0, tmp_path_factory.mktemp("synthetic") / "images")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def network(study):
    keras.utils.set_random_seed(0)
    return study.build_model(SHAPE, len(ALPHABET) + 1)


def export(study, model, folder, shape=SHAPE, temperature=1.5, characters=ALPHABET):
    numbers = {character: number for number, character in enumerate(characters, start=1)}
    about = ABOUT | {"alphabet": "".join(characters), "shape": shape._asdict()}
    exporting.export(model, study.preprocess, temperature, numbers, shape, about, folder)
    return folder


def test_the_network_fits_the_contract(network):
    assert network.output_shape == (None, 50, 20) and network.count_params() < 250_000
    kinds = [type(layer).__name__ for layer in network.layers]
    assert "Conv2D" in kinds and "Bidirectional" in kinds
    fused = exporting.FusedBidirectional(network.get_layer("bilstm"))
    x = tf.random.stateless_normal([3, 50, network.get_layer("bilstm").input.shape[-1]], (0, 1))
    np.testing.assert_allclose(fused(x), network.get_layer("bilstm")(x), atol=1e-5)


def test_the_export_reads_like_the_network_and_knows_no_cudnn(study, network, images, tmp_path):
    new = export(study, network, tmp_path / "new")
    pixels = np.stack([open_image(path) for path in images])
    expected = tf.nn.softmax(network.predict(study.preprocess(pixels, SHAPE), verbose=0) / 1.5)
    model = tf.saved_model.load(new / "ocr_model")
    np.testing.assert_allclose(model.serve(pixels), expected, atol=1e-4)
    session = onnxruntime.InferenceSession(new / "ocr_model.onnx")
    (light,) = session.run(None, {"image": prepare(pixels, SHAPE)})
    np.testing.assert_allclose(light, expected, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["alphabet"]) == ALPHABET and json.loads(facts["shape"])["width"] == 200
    assert b"Cudnn" not in (new / "ocr_model" / "saved_model.pb").read_bytes()
    again = keras.models.load_model(new / "ocr_model" / "assets.extra" / "network.keras")
    for own, other in zip(network.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)


def test_only_the_chief_exports(study, network, tmp_path, monkeypatch):
    task = '{"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 1}}'
    monkeypatch.setenv("TF_CONFIG", task)
    with pytest.raises(SystemExit, match="chief"):
        export(study, network, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """A file in the format of MobileNetV2's weights, where Keras looks for a downloaded one."""
    weights = keras.applications.MobileNetV2((None, None, 3), include_top=False, weights=None)
    (tmp_path / "models").mkdir()
    weights.save(tmp_path / "models" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5")
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    return weights


@pytest.mark.parametrize("architecture", ["bilstm", "cnn", "attention"])
def test_every_architecture_can_have_any_size(study, architecture):
    for size in (0.1, 0.75, 1.25, 1.9):
        model = study.build_model(Shape(48, 172, 1, 1.0), 20, architecture, size)
        assert model.output_shape == (None, 43, 20)


@pytest.mark.parametrize("architecture", ["bilstm", "cnn", "attention"])
def test_every_architecture_is_exported_and_read_by_the_app(study, images, tmp_path, architecture):
    check_export(study, images, tmp_path, architecture)


def test_a_network_that_onnxruntime_cannot_run_has_no_onnx_file(tmp_path, capsys):
    image = keras.Input((8, 4))
    network = keras.Model(image, keras.layers.Dense(3, activation="gelu")(image))
    exporting.export_onnx(network, 1.0, ABOUT, tmp_path / "ocr_model.onnx")
    assert "can't be exported as ONNX" in capsys.readouterr().out
    assert not (tmp_path / "ocr_model.onnx").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.input_shape. is undefined")  # any size will do, as the notebook needs
def test_a_pretrained_network_is_exported_and_read_by_the_app(study, imagenet, images, tmp_path):
    model = check_export(study, images, tmp_path, "pretrained")
    kernel = model.get_layer("backbone").get_layer("Conv1").get_weights()[0]
    np.testing.assert_array_equal(kernel, imagenet.get_layer("Conv1").get_weights()[0])


def check_export(study, images, tmp_path, architecture):
    shape = Shape(48, 172, 3, 1.5)
    model = study.build_model(shape, len(ALPHABET) + 1, architecture)
    assert model.output_shape == (None, shape.frames, 20)
    folder = export(study, model, tmp_path / "app", shape, 1.0)
    pixels = [open_image(path, 3) for path in images[:4]]
    expected = tf.nn.softmax(model.predict(study.preprocess(np.stack(pixels), shape), verbose=0))
    for runtime in ("tensorflow", "onnx"):
        recognizer = ocr.Recognizer(folder, runtime)
        assert app.build(recognizer)
        for reading, frames in zip(recognizer.read_batch(pixels), expected, strict=True):
            np.testing.assert_allclose(reading.frames, frames, atol=1e-4)
    return model


@pytest.mark.filterwarnings("ignore:.input_shape. is undefined")
def test_unknown_and_unreachable_architectures_end_in_a_sentence(study, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"ARCHITECTURE is 'lstm'; set it to one of bilstm, cnn"):
        study.build_model(SHAPE, 20, "lstm")
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(ConnectionError, match=r"MobileNetV2 can't be downloaded .* choose another"):
        networks.pretrained(keras.Input((200, 50, 1)), 50)


def test_examples_are_of_the_test_split_or_synthetic(images, tmp_path):
    test = pd.DataFrame({"path": [str(path) for path in images], "label": [path.stem for path in images]})
    characters = [*ALPHABET, " ", "漢"]
    for kind in ("test", "synthetic"):
        (tmp_path / kind).mkdir()
        exporting.add_examples(tmp_path / kind, test, kind, characters, 1)
        names = {path.name for path in (tmp_path / kind / "Examples").iterdir()}
        assert len(names) == 10 and (names < {path.name for path in images}) == (kind == "test")
    (tmp_path / "1").mkdir()
    shutil.copy(images[0], tmp_path / "1")
    (tmp_path / "same").mkdir()
    same = pd.DataFrame({"path": [images[0], tmp_path / "1" / images[0].name], "label": ["a", "b"]})
    exporting.add_examples(tmp_path / "same", same, "test", characters, 1)
    assert len(list((tmp_path / "same" / "Examples").iterdir())) == 2
    (tmp_path / "none").mkdir()
    exporting.add_examples(tmp_path / "none", test, "synthetic", ["漢"], 1)
    assert not list((tmp_path / "none" / "Examples").iterdir())


class Crash(Exception):
    pass


def test_a_crash_while_swapping_leaves_one_whole_model(study, network, tmp_path, monkeypatch):
    """It crashes at each step in turn. The old alphabet goes backwards, so a mixture would show."""
    old = export(study, network, tmp_path / "old", characters=ALPHABET[::-1])
    new = export(study, network, tmp_path / "new")
    newest = export(study, network, tmp_path / "newest", characters="3" + ALPHABET[2:] + "2")

    def alphabet(folder):
        """The one of the model there, whose files are all of one export."""
        place = folder / "new_export" if (folder / "new_export").is_dir() else folder
        ocr._check_files(place)
        return "".join(ocr._load_pickle(place / "char_to_num"))

    step, crashed = 0, True
    while crashed:
        folder, calls = tmp_path / f"app{step}", iter(range(1000))
        shutil.copytree(old, folder)
        (folder / "app.py").write_text("stays")
        shutil.copytree(new, folder / "unfinished_export")

        def crashing(function, calls=calls, last=step):
            def call(*arguments, **options):
                if next(calls) == last:
                    raise Crash
                return function(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in ("rmtree", "copytree", "copy"):
                patch.setattr(exporting.shutil, name, crashing(getattr(shutil, name)))
            patch.setattr(Path, "rename", crashing(Path.rename))
            try:
                exporting.swap_in(folder / "unfinished_export")
                crashed = False
            except Crash:
                assert alphabet(folder) in (ALPHABET, ALPHABET[::-1])
        shutil.rmtree(folder / "unfinished_export", ignore_errors=True)
        exporting.swap_in(shutil.copytree(newest, folder / "unfinished_export"))
        assert alphabet(folder).startswith("34")
        names = ["app.py", "char_to_num", "num_to_char", "ocr_model", "ocr_model.onnx"]
        assert sorted(path.name for path in folder.iterdir()) == names
        step += 1
    assert step > 8

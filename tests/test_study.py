"""The functions of study.ipynb, one by one."""

import shutil

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image
from runs import ARCHIVE


@pytest.fixture(scope="module")
def drawn(study, tmp_path_factory):
    return study.draw_dataset(30, 0, tmp_path_factory.mktemp("drawn") / "images")


def test_render_is_seeded_and_draws_any_size_and_length(study):
    first, again, other = [study.render("2b8xy", np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert first.shape == (50, 200) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    for text, width, height in (("é", 60, 20), ("ABCDEFGHIJKL", 200, 50), ("a b", 333, 77)):
        image = study.render(text, np.random.default_rng(0), width, height)
        assert image.shape == (height, width) and image.min() < 60 < 180 < image.max()


def test_scan_keeps_each_image_once_and_says_what_it_leaves_out(study, drawn, tmp_path):
    folder = shutil.copytree(drawn, tmp_path / "set")
    shutil.copytree(drawn, folder / "again")
    path = next(drawn.iterdir())
    shutil.copy(path, folder / "yyyyy.png")
    (folder / "bad22.png").write_bytes(b"no image")
    Image.new("L", (40, 20)).save(folder / f"{'2' * 40}.png")
    Image.open(path).save(folder / f"{path.stem}.bmp")
    (folder / "notes.txt").write_text("not an image at all")
    table, left_out = study.scan(folder, "(.+)")
    assert sorted(table["label"]) == sorted(p.stem for p in drawn.iterdir() if p != path)
    reasons = left_out["reason"].str.partition(":")[0].value_counts().to_dict()
    assert reasons == {
        "copy of another file": 29,
        "same image with different labels": 4,
        "unreadable": 1,
        "label too long for 50 frames": 1,
    }
    with pytest.raises(study.DatasetError, match="one group"):
        study.scan(folder, ".+")


def test_scan_reads_labels_csv_wherever_it_lies(study, drawn, tmp_path):
    folder = shutil.copytree(drawn, tmp_path / "set" / "below")
    names = sorted(path.name for path in folder.iterdir())
    labels = ["NA", "01", "", *map(str, range(len(names) - 4))]
    rows = pd.DataFrame({"filename": names[:-1], "label": labels})
    rows.loc[len(rows)] = ["missing.png", "x"]
    rows.to_csv(folder / "labels.csv", index=False)
    table, left_out = study.scan(tmp_path, "(.+)")
    assert {"NA", "01"} <= set(table["label"]) and len(table) == len(names) - 2
    reasons = sorted(reason.partition(":")[0] for reason in left_out["reason"])
    assert reasons == ["no label", "no label", "unreadable"]
    shutil.copy(folder / "labels.csv", tmp_path)
    with pytest.raises(study.DatasetError, match="Leave one"):
        study.scan(tmp_path, "(.+)")
    (tmp_path / "labels.csv").unlink()
    rows.rename(columns={"label": "text"}).to_csv(folder / "labels.csv", index=False)
    with pytest.raises(study.DatasetError, match="columns filename and label"):
        study.scan(tmp_path, "(.+)")


def test_scan_stops_where_there_is_too_little(study, drawn, tmp_path):
    with pytest.raises(study.DatasetError, match="no images"):
        study.scan(tmp_path, "(.+)")
    with pytest.raises(study.DatasetError, match=r"Only 0 of 30 .*no label"):
        study.scan(drawn, "never(.+)")


@pytest.mark.parametrize("split_by", ["image", "label"])
def test_folds_are_disjoint_and_cover_every_image_once(study, split_by):
    table = pd.DataFrame({"label": [f"{n % 301}" for n in range(963)]})
    tests = []
    for fold in range(10):
        parts = study.split(table, 7, fold, None, split_by)
        indexes = [index for part in parts.values() for index in part.index]
        assert sorted(indexes) == list(range(963))
        assert 80 <= len(parts["test"]) <= 110 and 80 <= len(parts["validation"]) <= 110
        if split_by == "label":
            assert not set(parts["test"]["label"]) & set(parts["train"]["label"])
            assert not set(parts["validation"]["label"]) & set(parts["train"]["label"])
        tests.extend(parts["test"].index)
    assert sorted(tests) == list(range(963))
    again = study.split(table, 7, 9, None, split_by)
    assert all(again[name].equals(parts[name]) for name in parts)


def test_split_takes_so_many_labels_and_refuses_what_can_not_be(study):
    table = pd.DataFrame({"label": [f"{n}" for n in range(963)]})
    for count in (10, 25, 50, 100):
        parts = study.split(table, 1, None, count, "image")
        assert len(parts["train"]) + len(parts["validation"]) == count
        assert len(parts["test"]) == 963 - count and len(parts["validation"]) >= 1
    for arguments, words in [
        ((0, 10, None, "image"), "FOLD"),
        ((0, None, None, "word"), "SPLIT_BY"),
        ((0, None, 1, "image"), "train"),
        ((0, None, 963, "image"), "LABELS"),
    ]:
        with pytest.raises(ValueError, match=words):
            study.split(table, *arguments)


def test_labels_survive_the_way_to_numbers_and_back(study):
    char_to_num = {character: number for number, character in enumerate("ab é漢", start=1)}
    num_to_char = {number: character for character, number in char_to_num.items()}
    labels = ["a b", "éé", "漢"]
    numbers = study.encode(labels, char_to_num, 4)
    assert numbers.dtype == np.int32 and numbers.shape == (3, 4)
    assert [study.to_text(row, num_to_char) for row in numbers] == labels


@pytest.mark.parametrize("size", [(50, 200), (24, 72), (100, 100), (1, 1), (900, 20), (20, 4000)])
def test_preprocess_keeps_the_aspect_and_pads_with_the_mean(study, size):
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 1)).astype(np.uint8)
    prepared = study.preprocess(tf.constant(images)).numpy()
    assert prepared.shape == (2, study.WIDTH, study.HEIGHT, 1) and prepared.dtype == np.float32
    height, width = study.fitted_size(*size).numpy()
    assert (height, width) == (50, 200) or height == 50 or width == 200
    if min(size) > 1:
        np.testing.assert_allclose(prepared[:, :width, :height].mean(axis=(1, 2, 3)), 0, atol=1e-3)
    assert (prepared[:, width:] == 0).all() and (prepared[:, :, height:] == 0).all()
    edges = study.frame_edges(*size).numpy()
    assert len(edges) == study.FRAMES + 1 and edges[0] == 0 and (np.diff(edges) >= 0).all()
    assert edges[-1] == pytest.approx(size[1])


def test_augmentation_changes_images_but_not_labels_or_readability(study, drawn):
    images = np.stack([np.asarray(Image.open(path))[..., None] for path in sorted(drawn.iterdir())])
    prepared, labels = study.preprocess(images), tf.ones([30, 5], tf.int32)
    changed, same = study.augment(prepared, labels)
    assert changed.shape == prepared.shape and (same.numpy() == labels.numpy()).all()
    assert np.isfinite(changed.numpy()).all()
    # Moved and bent, the ink stays inside: as many dark pixels as before, give or take a third.
    dark = [(x.numpy() < -1).mean() for x in (prepared, changed)]
    assert 0.67 < dark[1] / dark[0] < 1.5


def test_only_the_training_part_is_shuffled_and_augmented(study, drawn):
    table, _ = study.scan(drawn, "(.+)")
    numbers = {character: n for n, character in enumerate(study.ALPHABET, start=1)}
    data = study.read_images(table, numbers, 5)
    plain = study.make_batches(data, training=False)
    first, again = [np.concatenate([images for images, _ in plain.as_numpy_iterator()]) for _ in range(2)]
    np.testing.assert_array_equal(first, again)
    expected = study.preprocess(study.open_image(table["path"][3])[None])[0]
    np.testing.assert_array_equal(first[3], expected)
    one, two = study.make_batches(data, training=True).take(2).as_numpy_iterator()
    assert one[0].shape == (study.BATCH_SIZE, study.WIDTH, study.HEIGHT, 1) == two[0].shape
    assert (one[0] != two[0]).any() and one[1].dtype == np.int32
    mixed = study.make_batches(data, True, study.draw_images(20, [3, 5], numbers, np.random.default_rng(0)))
    _, labels = next(mixed.as_numpy_iterator())
    assert 0 < (labels[:, 3] == 0).sum() < study.BATCH_SIZE


def test_drawn_images_have_the_characters_and_lengths_that_are_asked_for(study):
    numbers = {"a": 1, "é": 2}
    data = study.draw_images(40, [1, 3], numbers, np.random.default_rng(0))
    labels = np.stack([label for _, label in data.as_numpy_iterator()])
    assert set(np.unique(labels)) == {0, 1, 2} and set((labels > 0).sum(axis=1)) == {1, 3}
    assert next(data.as_numpy_iterator())[0].shape == (50, 200, 1)


def test_exact_match_is_the_greedy_reading(study):
    frames = {"ab": [1, 1, 0, 2], "aab": [1, 0, 1, 2], "": [0, 0, 0, 0]}
    logits = np.zeros((3, study.FRAMES, 3), np.float32)
    logits[:, :, 0] = 5
    for row, classes in enumerate(frames.values()):
        logits[row, range(4), classes] = 9
    labels = np.array([[1, 2, 0], [1, 2, 0], [0, 0, 0]])
    np.testing.assert_array_equal(study.exact_match(tf.constant(labels), tf.constant(logits)), [1, 0, 1])


def test_metrics_against_known_values(study):
    # Agresti & Coull 1998, table: 0 of 10 and 9 of 10.
    assert study.wilson_interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert study.wilson_interval(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert study.character_error_rate(["abc", "é漢"], ["abc", "é漢"]) == 0
    assert study.character_error_rate(["kitten", "ab"], ["sitting", ""]) == pytest.approx(5 / 8)
    compared = study.compare_characters(["abc", "ab"], ["axc", "abb"])
    assert list(compared["label"] + ">" + compared["text"]) == ["a>a", "b>x", "c>c", "a>a", "b>b", ">b"]
    # As many edits as the distance counts.
    assert (lambda rows: rows["label"] != rows["text"])(
        study.compare_characters(["abxcd"], ["bcdab"])
    ).sum() == 4


def test_a_sure_and_wrong_network_gets_a_high_temperature(study):
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 3, (40, 3))
    logits = np.zeros((40, 12, 3), np.float32)
    logits[:, :, 0] = 8
    for row, label in enumerate(labels):
        for position, number in enumerate(label):
            read = 3 - number if row % 4 == 0 and position == 0 else number
            logits[row, 4 * position + 1, read] = 16
    assert study.choose_temperature(logits, labels) > 1.5
    right = np.where(np.arange(40) % 4)[0]
    assert study.choose_temperature(logits[right], labels[right]) == 1


@pytest.fixture(scope="module")
def network(study):
    keras.utils.set_random_seed(0)
    model = study.build_model(len(study.ALPHABET) + 1)
    model.compile(loss=keras.losses.CTC(), metrics=[study.exact_match])
    return model


def test_the_network_fits_the_contract(study, network):
    assert network.output_shape == (None, study.FRAMES, 20) and network.count_params() < 250_000
    kinds = [type(layer).__name__ for layer in network.layers]
    assert "Conv2D" in kinds and "Bidirectional" in kinds
    assert study.draw_architecture(network)
    fused = study.FusedBidirectional(next(x for x in network.layers if "Bidirectional" in type(x).__name__))
    x = tf.random.stateless_normal([3, study.FRAMES, network.get_layer(fused.name).input.shape[-1]], (0, 1))
    np.testing.assert_allclose(fused(x), network.get_layer(fused.name)(x), atol=1e-5)


def export(study, network, parent, characters=None):
    numbers = {c: n for n, c in enumerate(characters or study.ALPHABET, start=1)}
    new = parent / "unfinished_export"
    new.mkdir(parents=True)
    study.export(network, 1.5, numbers, new)
    return new


def test_the_export_reads_like_the_network_and_knows_no_cudnn(study, network, drawn, tmp_path):
    new = export(study, network, tmp_path)
    images = np.stack([study.open_image(path) for path in sorted(drawn.iterdir())])
    expected = tf.nn.softmax(network.predict(study.preprocess(images), verbose=0) / 1.5)
    model = tf.saved_model.load(new / "ocr_model")
    np.testing.assert_allclose(model.serve(images), expected, atol=1e-4)
    np.testing.assert_allclose(model.columns(50, 200), np.arange(0, 201, 4))
    assert b"Cudnn" not in (new / "ocr_model" / "saved_model.pb").read_bytes()


class Crash(Exception):
    pass


@pytest.mark.parametrize("step", range(12))
def test_a_crash_while_swapping_leaves_one_whole_model(study, network, tmp_path, monkeypatch, step):
    """The old alphabet goes backwards, so a mixture would show."""
    folder = tmp_path / "app"
    study.swap_in(export(study, network, folder, study.ALPHABET[::-1]))
    (folder / "app.py").write_text("stays")
    new = export(study, network, folder)
    calls = iter(range(100))

    def crashing(function):
        def call(*args, **kwargs):
            if next(calls) == step:
                raise Crash
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("rmtree", "copytree", "copy"):
            patch.setattr(study.shutil, name, crashing(getattr(shutil, name)))
        patch.setattr(study.Path, "rename", crashing(study.Path.rename))
        try:
            study.swap_in(new)
        except Crash:
            alphabet = study.Recognizer(folder).alphabet
            assert alphabet in (study.ALPHABET, study.ALPHABET[::-1])
    if new.exists():
        shutil.rmtree(new)
    study.swap_in(export(study, network, folder, "3" + study.ALPHABET[2:] + "2"))
    assert study.Recognizer(folder).alphabet.startswith("34")
    assert sorted(p.name for p in folder.iterdir()) == ["app.py", "char_to_num", "num_to_char", "ocr_model"]


@pytest.mark.skipif(not ARCHIVE.exists(), reason="the shared archive is not here")
def test_the_real_archive_has_each_image_once(study, tmp_path):
    table, left_out = study.scan(study.fetch(str(ARCHIVE), tmp_path), "(.+)")
    assert len(table) == 963 and set(left_out["reason"]) == {"copy of another file"}
    assert "".join(sorted(set("".join(table["label"])))) == study.ALPHABET

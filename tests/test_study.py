"""The functions of study.ipynb, one by one."""

import contextlib
import linecache
import os
import shutil
import subprocess
import sys

import app
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image
from runs import ARCHIVE, ROOT


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


def test_render_varied_is_seeded_and_varies(study):
    for text, width, height in (
        ("é", 60, 20),
        ("ABC DEFGHIJKL", 200, 50),
        ("٣٤", 9, 77),
        ("x" * 40, 300, 48),
    ):
        images = [study.render_varied(text, np.random.default_rng(seed), width, height) for seed in range(8)]
        assert all(image.shape == (height, width, 3) and image.dtype == np.uint8 for image in images)
        again = study.render_varied(text, np.random.default_rng(3), width, height)
        np.testing.assert_array_equal(again, images[3])
        assert len({image.tobytes() for image in images}) == 8


def test_each_character_has_a_glyph_of_its_own(study):
    characters = ["é", "Ж", "漢", "字", "Ā", "-"]
    glyphs = study.choose_glyphs(characters)
    assert [glyphs[c] for c in "éЖĀ-"] == list("éЖĀ-") and len(set(glyphs.values())) == len(characters)
    assert all(glyphs[c].isalpha() and glyphs[c] in study.DRAWABLE for c in "漢字")
    assert len(study.choose_glyphs([chr(0x4E00 + n) for n in range(5000)])) == 5000


def test_drawn_texts_keep_length_and_spaces(study):
    text = study.draw_text("ab c d", ["x", "y"], np.random.default_rng(0))
    assert len(text) == 6 and [n for n, c in enumerate(text) if c == " "] == [2, 4]
    cased = {study.change_case("aß1", np.random.default_rng(seed)) for seed in range(20)}
    assert cased == {"aß1", "Aß1"}
    assert {study.change_case("ı", np.random.default_rng(seed)) for seed in range(20)} == {"ı"}


def test_scan_keeps_each_image_once_and_says_what_it_leaves_out(study, drawn, tmp_path):
    folder = shutil.copytree(drawn, tmp_path / "set")
    shutil.copytree(drawn, folder / "again")
    path = next(drawn.iterdir())
    shutil.copy(path, folder / "yyyyy.png")
    (folder / "bad22.png").write_bytes(b"no image")
    Image.linear_gradient("L").resize((40, 20)).save(folder / f"{'2' * 40}.png")
    Image.open(path).save(folder / f"{path.stem}.bmp")
    odd = folder / os.fsdecode(b"caf\xe9.png")
    with contextlib.suppress(OSError):  # macOS's
        shutil.copy(path, odd)
    (folder / "notes.txt").write_text("not an image at all")
    Image.new("L", (60, 20), 7).save(folder / "blank.png")
    table, left_out, shape = study.scan(folder, "(.+)")
    assert shape == (50, 200, 1, 1.0) and shape.frames == 50
    assert sorted(table["label"]) == sorted(p.stem for p in drawn.iterdir() if p != path)
    assert left_out["problem"].value_counts().to_dict() == {
        "copy of another file": 29,
        "same image with different labels": 4,
        "unreadable": 1,
        "nearly blank": 1,
        "label too long for the width": 1,
    } | ({"name or label is not Unicode": 1} if odd.exists() else {})
    for pattern, words in ((".+", "one group"), ("(", "no regular expression")):
        with pytest.raises(study.DatasetError, match=words):
            study.scan(folder, pattern)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_scan_reads_a_list_of_labels_wherever_it_lies(study, drawn, tmp_path, kind):
    folder = shutil.copytree(drawn, tmp_path / "set" / "below")
    names = sorted(path.name for path in folder.iterdir())
    labels = ["NA", "01", "", 'e\u0301, "b"', " Ab ", *map(str, range(len(names) - 6))]
    rows = pd.DataFrame({"filename": names[:-1], "label": labels})
    rows.loc[len(rows)] = ["missing.png", "x"]

    def write(rows, folder):
        path = folder / f"labels.{kind}"
        if kind == "jsonl":
            return rows.to_json(path, orient="records", lines=True)
        return rows.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")

    write(rows, folder)
    table, left_out, _ = study.scan(tmp_path, "(.+)")
    assert {"NA", "01", 'é, "b"', "Ab"} <= set(table["label"]) and len(table) == len(names) - 2
    assert sorted(left_out["problem"]) == ["no label", "no label", "unreadable"]
    assert left_out.set_index("problem")["detail"]["unreadable"].startswith("There is no file")
    assert "ab" in set(study.scan(tmp_path, "(.+)", ignore_case=True)[0]["label"])
    write(rows, tmp_path)
    with pytest.raises(study.DatasetError, match="Leave one"):
        study.scan(tmp_path, "(.+)")
    (folder / f"labels.{kind}").unlink()
    assert len(study.scan(tmp_path, "(.+)")[0]) == len(names) - 2  # found by their names alone
    write(rows.rename(columns={"label": "text"}), tmp_path)
    with pytest.raises(study.DatasetError, match="columns filename and label"):
        study.scan(tmp_path, "(.+)")


def test_lists_with_other_separators_or_mistakes(study, drawn, tmp_path):
    folder = shutil.copytree(drawn, tmp_path / "images" / "a")
    names = sorted(path.name for path in folder.iterdir())
    for name in names[:2]:
        (folder.parent / "b").mkdir(exist_ok=True)
        shutil.copy(folder / names[2], folder.parent / "b" / name)
    path = folder.parent / "Labels.CSV"

    def scan(*lines):
        path.write_text("\n".join(["filename;label", *lines]), encoding="utf-8-sig")
        return study.scan(folder.parent, "(.+)")

    table, left_out, _ = scan(*(f"a\\{name};l\u00a0 {number}" for number, name in enumerate(names)))
    assert sorted(table["label"]) == sorted(f"l {number}" for number in range(2, len(names)))
    problems = left_out["problem"].value_counts()  # two names stand twice, so nobody knows which is meant
    assert problems["unreadable"] == 2 and problems["no label"] == 4
    for lines, words in [
        (["1.png;a;b"], "too many fields"),
        (['1.png;"a', "2.png;b", '3.png;c"'], "line break"),
        (["../../secret.png;a"], "not below"),
    ]:
        with pytest.raises(study.DatasetError, match=words):
            scan(*lines)
    path.unlink()
    for row in ('{"filename": null, "label": "a"}', '{"filename": "1.png", "label": ["a"]}'):
        (folder / "labels.jsonl").write_text(row)
        with pytest.raises(study.DatasetError, match="entry 1 must be texts"):
            study.scan(folder.parent, "(.+)")
    (folder / "labels.jsonl").write_text(
        "".join(f'{{"filename": "{name}", "label": "{name[:-4]}\\ud800"}}\n' for name in names)
    )
    with pytest.raises(study.DatasetError, match="not Unicode"):
        study.scan(folder, "(.+)")


def test_colour_is_kept_where_grey_would_lose_the_text(study, tmp_path):
    for number in range(12):
        image = Image.new("RGB", (90, 30), (255, 0, 0))
        image.paste((0, 130, 0), (10 + number, 8, 60, 22))  # as dark as the red
        image.save(tmp_path / f"{number}.webp", lossless=True)
    assert study.scan(tmp_path, "(.+)")[2].channels == 3
    assert study.scan(tmp_path, "(.+)", colour=False)[2].channels == 1


@pytest.mark.parametrize(
    ("size", "label", "expected"),
    [
        ((72, 24), "abcd", (48, 144, 1, 1)),
        ((28, 28), "7", (48, 48, 1, 1)),
        ((640, 480), "12-34", (96, 128, 1, 1)),
        ((600, 50), "a line of text", (48, 576, 1, 1)),
        ((2000, 40), "a long line of text", (32, 1536, 1, 1)),
        ((90, 30), "aabbccddee12", (48, 172, 1, 170 / 144)),
    ],
)
def test_the_shape_follows_from_images_and_labels(study, size, label, expected):
    table = pd.DataFrame({"width": size[0], "height": size[1], "label": [label] * 5, "grey": 1.0})
    shape = study.choose_shape(table, None)
    assert shape[:3] == expected[:3] and shape.stretch == pytest.approx(expected[3], abs=0.01)
    assert shape.frames >= 2.5 * study.frames_needed(label) - 1


def test_check_lists_what_may_be_wrong(study):
    left_out = pd.DataFrame({"problem": ["no label"] * 4, "path": [f"x/{n}.png" for n in range(4)]})
    left_out.loc[4] = ["unreadable", "x/y.png"]
    left_out["detail"] = [None] * 4 + ["why"]
    labels = {"train": ["ab", "ab"], "validation": ["ac"], "test": ["acd"]}
    parts = {
        name: pd.DataFrame({"label": part, "path": [f"{name}{n}.png" for n in range(len(part))]})
        for name, part in labels.items()
    }
    for part in parts.values():
        part[["height", "width"]] = 50, 200
    parts["validation"]["width"] = 1000
    rows = study.check(left_out, parts, study.Shape(50, 200, 1, 1.0)).reset_index().set_index("problem")
    assert rows.loc["no label"].tolist() == ["left out", 4, "0.png, 1.png, 2.png"]
    assert rows.loc["unreadable"].tolist() == ["left out", 1, "y.png (why)"]
    assert rows.loc["so wide that few rows are left"].tolist() == ["kept", 1, "validation0.png"]
    assert rows.loc["'c' is in no training image"].tolist() == ["kept", 2, "validation0.png, test0.png"]
    assert rows.loc["'d' occurs only once"].tolist() == ["kept", 1, "test0.png"]


def test_scan_stops_where_there_is_too_little(study, drawn, tmp_path):
    with pytest.raises(study.DatasetError, match="no images"):
        study.scan(tmp_path, "(.+)")
    with pytest.raises(study.DatasetError, match=r"Only 0 of 30 .*no label"):
        study.scan(drawn, "never(.+)")
    for path in drawn.iterdir():
        shutil.copy(path, tmp_path / f"same_{path.name}")
    with pytest.raises(study.DatasetError, match="All 30 images have the label 'same'"):
        study.scan(tmp_path, "(same)")


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


def test_a_changed_cell_starts_a_run_of_its_own(study, monkeypatch):
    cells = {name: content for name, content in linecache.cache.items() if name.startswith("<study.ipynb")}
    before = study.run_folder("labelled", 42)
    assert before == study.run_folder("labelled", 42) != study.run_folder("labelled", 43)
    for constant in ("ROTATION = 0.08", "UNITS = 48", "FACES = ", "PATIENCE = 10"):
        ((name, content),) = [item for item in cells.items() if constant in "".join(item[1][2])]
        changed = [line.replace(constant, f"{constant} 1") for line in content[2]]
        with monkeypatch.context() as patch:
            patch.setitem(linecache.cache, name, (*content[:2], changed, name))
            assert study.run_folder("labelled", 42) != before


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
        ((0, None, 867, "image"), "LABELS is 867; set it to None or a number from 1 to 866"),
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


@pytest.fixture(scope="module")
def shape(study):
    return study.Shape(50, 200, 1, 1.0)


@pytest.mark.parametrize("stretch", [1.0, 2.5])
@pytest.mark.parametrize("size", [(50, 200), (24, 72), (100, 100), (1, 1), (900, 20), (20, 4000)])
def test_preprocess_keeps_the_aspect_and_pads_with_the_mean(study, size, stretch):
    shape = study.Shape(50, 200, 3, stretch)
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.uint8)
    prepared = study.preprocess(tf.constant(images), shape).numpy()
    assert prepared.shape == (2, 200, 50, 3) and prepared.dtype == np.float32
    height, width = study.fitted_size(*size, shape).numpy()
    assert height == 50 or width == 200
    if min(height, width) > 1:
        assert width / height == pytest.approx(size[1] * stretch / size[0], rel=0.6 / min(height, width))
    if min(size) > 1:
        np.testing.assert_allclose(prepared[:, :width, :height].mean(axis=(1, 2, 3)), 0, atol=1e-3)
    assert (prepared[:, width:] == 0).all() and (prepared[:, :, height:] == 0).all()
    edges = study.frame_edges(*size, shape).numpy()
    assert len(edges) == shape.frames + 1 and edges[0] == 0 and (np.diff(edges) >= 0).all()
    assert edges[-1] == pytest.approx(size[1])


def test_augmentation_changes_images_but_not_labels_or_readability(study, shape, drawn):
    images = np.stack([np.asarray(Image.open(path))[..., None] for path in sorted(drawn.iterdir())])
    prepared, labels = study.preprocess(images, shape), tf.ones([30, 5], tf.int32)
    changed, same = study.augment(prepared, labels)
    assert changed.shape == prepared.shape and (same.numpy() == labels.numpy()).all()
    assert np.isfinite(changed.numpy()).all()
    # Moved and bent, the ink stays inside: as many dark pixels as before, give or take a third.
    dark = [(x.numpy() < -1).mean() for x in (prepared, changed)]
    assert 0.67 < dark[1] / dark[0] < 1.5


def test_only_the_training_part_is_shuffled_and_augmented(study, shape, drawn):
    table, _, _ = study.scan(drawn, "(.+)")
    numbers = {character: n for n, character in enumerate(study.ALPHABET, start=1)}
    data = study.read_images(table, numbers, shape, 5)
    plain = study.make_batches(data, training=False)
    first, again = [np.concatenate([images for images, _ in plain.as_numpy_iterator()]) for _ in range(2)]
    np.testing.assert_array_equal(first, again)
    expected = study.preprocess(study.open_image(table["path"][3])[None], shape)[0]
    np.testing.assert_array_equal(first[3], expected)
    one, two = study.make_batches(data, training=True).take(2).as_numpy_iterator()
    assert one[0].shape == (study.BATCH_SIZE, 200, 50, 1) == two[0].shape
    assert (one[0] != two[0]).any() and one[1].dtype == np.int32
    short = study.draw_images(table.assign(label="abc"), numbers, shape, 5, 20, False, 0)
    _, labels = next(study.make_batches(data, True, short, 0.5).as_numpy_iterator())
    assert 0 < (labels[:, 3] == 0).sum() < study.BATCH_SIZE


@pytest.mark.parametrize("varied", [False, True])
def test_drawn_images_are_like_the_table_s(study, varied):
    numbers = {"a": 1, "é": 2, "漢": 3, " ": 4}
    rows = pd.DataFrame({"label": ["a", "漢 é"], "height": [30, 60], "width": [60, 300]})
    shape = study.Shape(48, 256, 3, 1.0)
    data = study.draw_images(rows, numbers, shape, 3, 40, varied, 0)
    (images, labels), (again, _) = [
        map(np.stack, zip(*data.as_numpy_iterator(), strict=True)) for _ in range(2)
    ]
    np.testing.assert_array_equal(images, again)
    assert images.shape == (40, 256, 48, 3)
    assert set(np.unique(labels[:, ::2])) == {0, 1, 2, 3}
    widths = [int((image != 0).any(axis=(1, 2)).sum()) for image in images]
    found = {(width, int((label > 0).sum())) for width, label in zip(widths, labels, strict=True)}
    assert found == {(96, 1), (240, 3)} | ({(240, 1)} if varied else set())  # some varied ones are shorter
    assert set(labels[(labels > 0).sum(axis=1) == 3][:, 1]) == {4}


def test_resemblance_tells_the_default_look_from_others(study, shape, drawn):
    numbers = {character: n for n, character in enumerate(study.ALPHABET, start=1)}
    table, _, _ = study.scan(drawn, "(.+)")
    real = study.read_images(table, numbers, shape, 5)
    same, other = [study.draw_images(table, numbers, shape, 5, 30, varied, 0) for varied in (False, True)]
    assert study.resemblance(real, same) > 0.8 and study.resemblance(other, same) < 0.4


def test_exact_match_is_the_greedy_reading(study):
    frames = {"ab": [1, 1, 0, 2], "aab": [1, 0, 1, 2], "": [0, 0, 0, 0]}
    logits = np.zeros((3, 50, 3), np.float32)
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


def test_the_threshold_is_the_least_that_keeps_the_promise(study):
    def choose(confidences, right, **options):
        return study.choose_threshold(np.array(confidences), np.array(right, bool), **{"least": 1} | options)

    confidences, right = [0.2, 0.9, 0.8, 0.5, 0.7], [1, 1, 1, 0, 1]
    assert choose(confidences, right) == 0.7
    assert choose(confidences, right, precision=0.8) == 0.2
    assert choose(confidences, right, least=4) is None
    assert choose(confidences, [1, 0, 1, 1, 1]) is None
    assert choose([1, 1, 1, 1], [1, 1, 0, 1]) is None
    assert choose([1, 1, 0.5], [1, 1, 0]) == 1


@pytest.fixture(scope="module")
def network(study, shape):
    keras.utils.set_random_seed(0)
    model = study.build_model("bilstm", shape, len(study.ALPHABET) + 1)
    study.set_up(model)
    return model


def test_the_loss_and_its_gradient_are_those_of_keras(study):
    labels = tf.constant([[1, 2, 3, 4, 5], [7, 7, 7, 0, 0], [19, 0, 0, 0, 0]])
    logits = 3 * tf.random.stateless_normal([3, 20, 20], (0, 1))
    results = []
    for losses in (study.ctc_losses, tf.function(study.ctc_losses), keras.losses.CTC(reduction=None)):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = losses(labels, logits)
        results.append((value, tape.gradient(value, logits)))
    for value, gradient in results[:2]:
        np.testing.assert_allclose(value, results[2][0], rtol=1e-5)
        # float32 holds log-likelihoods near 64 to 8e-6; a gradient has the exponential of several.
        np.testing.assert_allclose(gradient, results[2][1], atol=1e-4)


def test_the_network_fits_the_contract(study, network):
    assert network.output_shape == (None, 50, 20) and network.count_params() < 250_000
    kinds = [type(layer).__name__ for layer in network.layers]
    assert "Conv2D" in kinds and "Bidirectional" in kinds
    assert study.draw_architecture(network)
    fused = study.FusedBidirectional(next(x for x in network.layers if "Bidirectional" in type(x).__name__))
    x = tf.random.stateless_normal([3, 50, network.get_layer(fused.name).input.shape[-1]], (0, 1))
    np.testing.assert_allclose(fused(x), network.get_layer(fused.name)(x), atol=1e-5)


def export(study, network, parent, characters=None):
    numbers = {c: n for n, c in enumerate(characters or study.ALPHABET, start=1)}
    new = parent / "unfinished_export"
    new.mkdir(parents=True)
    shape, about = study.Shape(50, 200, 1, 1.0), {"alphabet": "".join(numbers)}
    study.export(network, 1.5, numbers, shape, about, new)
    return new


def test_the_export_reads_like_the_network_and_knows_no_cudnn(study, network, shape, drawn, tmp_path):
    new = export(study, network, tmp_path)
    images = np.stack([study.open_image(path) for path in sorted(drawn.iterdir())])
    expected = tf.nn.softmax(network.predict(study.preprocess(images, shape), verbose=0) / 1.5)
    model = tf.saved_model.load(new / "ocr_model")
    np.testing.assert_allclose(model.serve(images), expected, atol=1e-4)
    np.testing.assert_allclose(model.columns(50, 200), np.arange(0, 201, 4))
    assert b"Cudnn" not in (new / "ocr_model" / "saved_model.pb").read_bytes()


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """A file in the format of MobileNetV2's weights, where Keras looks for a downloaded one."""
    weights = keras.applications.MobileNetV2((None, None, 3), include_top=False, weights=None)
    (tmp_path / "models").mkdir()
    weights.save(tmp_path / "models" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5")
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    return weights


@pytest.mark.parametrize("architecture", ["bilstm", "cnn", "attention"])
@pytest.mark.parametrize("size", [0.1, 0.75, 1.25, 1.9])
def test_every_architecture_can_have_any_size(study, monkeypatch, architecture, size):
    monkeypatch.setattr(study, "SIZE", size)
    model = study.build_model(architecture, study.Shape(48, 172, 1, 1.0), 20)
    assert model.output_shape == (None, 43, 20)


@pytest.mark.parametrize("architecture", ["bilstm", "cnn", "attention", "pretrained"])
def test_every_architecture_is_exported_and_read_by_the_app(study, imagenet, drawn, tmp_path, architecture):
    shape = study.Shape(48, 172, 3, 1.5)
    model = study.build_model(architecture, shape, len(study.ALPHABET) + 1)
    assert model.output_shape == (None, shape.frames, 20)
    if architecture == "pretrained":
        kernel = model.get_layer("backbone").get_layer("Conv1").get_weights()[0]
        np.testing.assert_array_equal(kernel, imagenet.get_layer("Conv1").get_weights()[0])
        study.freeze(model, True)
        learning = [layer.name for layer in model.layers if layer.trainable_weights]
        assert learning == ["narrow", "narrow_norm", "logits"]
        study.freeze(model, False)
        assert model.get_layer("backbone").trainable_weights
    about = {
        "alphabet": study.ALPHABET,
        "lengths": [5, 5],
        "threshold": None,
        "start_from": None,
        "dataset": "drawn",
        "split": {"train": 1, "validation": 1, "test": 1},
        "split_by": "image",
        "exact_match": 0.0,
        "exact_match_interval": [0.0, 1.0],
        "cer": 1.0,
        "date": "2026-01-01",
    }
    (tmp_path / "app").mkdir()
    numbers = {character: number for number, character in enumerate(study.ALPHABET, start=1)}
    study.export(model, 1.0, numbers, shape, about, tmp_path / "app")
    assert app.build(tmp_path / "app")
    recognizer = study.Recognizer(tmp_path / "app")
    images = [study.open_image(path, 3) for path in sorted(drawn.iterdir())[:4]]
    expected = tf.nn.softmax(model.predict(study.preprocess(np.stack(images), shape), verbose=0))
    for reading, frames in zip(recognizer.read_batch(images), expected, strict=True):
        np.testing.assert_allclose(reading.frames, frames, atol=1e-4)


def test_unknown_and_unreachable_architectures_end_in_a_sentence(study, shape, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"ARCHITECTURE is 'lstm'; set it to one of bilstm, cnn"):
        study.build_model("lstm", shape, 20)
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(ConnectionError, match=r"MobileNetV2 can't be downloaded .* choose another"):
        study.build_model("pretrained", shape, 20)


def test_a_run_can_start_from_another_model(study, network, shape, tmp_path):
    numbers = {character: number for number, character in enumerate(study.ALPHABET, start=1)}
    folder = export(study, network, tmp_path)
    images = tf.random.stateless_normal([2, 200, 50, 1], (0, 1))
    model = study.build_model("bilstm", shape, 20)
    assert set(study.take_weights(model, folder, numbers)) == {"taken"}
    np.testing.assert_allclose(model(images), network(images), atol=1e-6)
    network.save(tmp_path / "saved.keras")
    for source in (folder, tmp_path / "saved.keras"):
        other = study.build_model("bilstm", shape, 7)
        fates = study.take_weights(other, source, {character: n for n, character in enumerate("abcdef", 1)})
        assert fates.pop("logits").startswith("starts anew") and set(fates) == {"taken"}
        np.testing.assert_array_equal(other.get_layer("conv_1").kernel, network.get_layer("conv_1").kernel)
    fates = study.take_weights(study.build_model("cnn", shape, 20), folder, numbers)
    assert fates["conv_4"] == "taken" and fates["along_1"].startswith("starts anew")
    with pytest.raises(ValueError, match=r"START_FROM .*nowhere can't be used"):
        study.take_weights(model, tmp_path / "nowhere", numbers)
    (tmp_path / "bad.keras").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"START_FROM .*bad.keras can't be used"):
        study.take_weights(model, tmp_path / "bad.keras", numbers)


def test_images_that_fill_the_memory_are_kept_on_disk(study, shape, drawn, tmp_path, monkeypatch):
    table, _, _ = study.scan(drawn, "(.+)")
    numbers = {character: n for n, character in enumerate(study.ALPHABET, start=1)}
    expected = np.stack(
        [image for image, _ in study.read_images(table, numbers, shape, 5).as_numpy_iterator()]
    )
    monkeypatch.setattr(study, "WORK", str(tmp_path))
    monkeypatch.setattr(study, "MEMORY", 16 * 7 * expected[0].nbytes)
    data = study.read_images(table, numbers, shape, 5)
    for _ in range(2):
        np.testing.assert_array_equal(np.stack([image for image, _ in data.as_numpy_iterator()]), expected)
    assert sum(path.stat().st_size for path in tmp_path.rglob("images*")) >= expected.nbytes
    images, _ = next(study.make_batches(data, True).as_numpy_iterator())
    assert images.shape == (study.BATCH_SIZE, 200, 50, 1)
    study.CACHES.clear()
    assert not list(tmp_path.iterdir())


def test_two_devices_train_one_network(drawn, tmp_path):
    """As several GPUs would; here a processor stands for both."""
    subprocess.run([sys.executable, "-c", TWO_DEVICES, str(drawn), str(tmp_path)], check=True, cwd=ROOT)
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert len(log) == 2 and np.isfinite(log["loss"]).all()


TWO_DEVICES = """
import sys
import tensorflow as tf
sys.path[:0] = ["benchmarks", "demo_app"]
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from runs import definitions
study = definitions()
study.STRATEGY = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
table, _, shape = study.scan(study.Path(sys.argv[1]), "(.+)")
numbers = {character: number for number, character in enumerate(study.ALPHABET, start=1)}
data = study.read_images(table, numbers, shape, 5)
model = study.build_model("bilstm", shape, 20)
study.train(model, data, data, 2, study.Path(sys.argv[2], "run"))
assert model.evaluate(study.make_batches(data, False), verbose=0, return_dict=True)["loss"] > 0
app = study.Path(sys.argv[2], "app")
app.mkdir()
about = {"alphabet": study.ALPHABET, "lengths": [5, 5], "threshold": None}
study.export(model, 1.0, numbers, shape, about, app)
fresh = study.build_model("bilstm", shape, 20)
assert set(study.take_weights(fresh, app, numbers)) == {"taken"}
assert study.Recognizer(app).read(table["path"][0]).frames.shape == (50, 20)
"""


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
            alphabet = study.Recognizer(folder).about["alphabet"]
            assert alphabet in (study.ALPHABET, study.ALPHABET[::-1])
    if new.exists():
        shutil.rmtree(new)
    study.swap_in(export(study, network, folder, "3" + study.ALPHABET[2:] + "2"))
    assert study.Recognizer(folder).about["alphabet"].startswith("34")
    assert sorted(p.name for p in folder.iterdir()) == ["app.py", "char_to_num", "num_to_char", "ocr_model"]


@pytest.mark.skipif(not ARCHIVE.exists(), reason="the shared archive is not here")
def test_the_real_archive_has_each_image_once(study, tmp_path):
    table, left_out, shape = study.scan(study.fetch(str(ARCHIVE), tmp_path), "(.+)")
    assert len(table) == 963 and set(left_out["problem"]) == {"copy of another file"}
    assert shape == (50, 200, 1, 1.0)
    assert "".join(sorted(set("".join(table["label"])))) == study.ALPHABET

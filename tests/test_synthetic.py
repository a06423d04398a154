"""training/synthetic.py: images that the study draws itself."""

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from network import Shape
from PIL import Image

from training.data import encode
from training.looks import BOLD, drawable
from training.synthetic import (
    ALPHABET,
    change_case,
    choose_glyphs,
    draw_dataset,
    draw_text,
    images_like,
    render,
    resemblance,
)


def test_render_is_seeded_and_draws_any_size_and_length():
    first, again, other = [render("2b8xy", np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert first.shape == (50, 200) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    for text, width, height in (("é", 60, 20), ("ABCDEFGHIJKL", 200, 50), ("a b", 333, 77)):
        image = render(text, np.random.default_rng(0), width, height)
        assert image.shape == (height, width) and image.min() < 60 < 180 < image.max()


def test_each_character_has_a_glyph_of_its_own():
    characters = ["é", "Ж", "漢", "字", "Ā", "-"]
    glyphs = choose_glyphs(characters, drawable(BOLD))
    assert [glyphs[c] for c in "éЖĀ-"] == list("éЖĀ-") and len(set(glyphs.values())) == len(characters)
    assert all(glyphs[c].isalpha() and glyphs[c] in drawable(BOLD) for c in "漢字")
    assert len(choose_glyphs([chr(0x4E00 + n) for n in range(5000)], drawable(BOLD))) == 5000


def test_drawn_texts_keep_length_and_spaces():
    text = draw_text("ab c d", ["x", "y"], np.random.default_rng(0))
    assert len(text) == 6 and [n for n, c in enumerate(text) if c == " "] == [2, 4]
    cased = {change_case("aß1", np.random.default_rng(seed)) for seed in range(20)}
    assert cased == {"aß1", "Aß1"}
    assert {change_case("ı", np.random.default_rng(seed)) for seed in range(20)} == {"ı"}


def test_a_data_set_is_named_after_its_texts_and_seeded(tmp_path):
    first, again, other = [
        {path.name: path.read_bytes() for path in draw_dataset(8, seed, tmp_path / name).iterdir()}
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    ]
    assert len(first) == 8 and first == again and not set(first) & set(other)
    assert all(len(name) == len("22222.png") and set(name[:5]) <= set(ALPHABET) for name in first)


@pytest.mark.parametrize("varied", [False, True])
def test_images_are_like_the_table_s(varied):
    numbers = {"a": 1, "é": 2, "漢": 3, " ": 4}
    rows = pd.DataFrame({"label": ["a", "漢 é"], "height": [30, 60], "width": [60, 300]})
    shape = Shape(48, 256, 3, 1.0)
    data = images_like(rows, numbers, shape, 3, 40, varied, 0)
    assert data.cardinality() == 40
    first, again = list(data.as_numpy_iterator()), list(data.as_numpy_iterator())
    for (image, label_ids), (same_image, same_ids) in zip(first, again, strict=True):
        np.testing.assert_array_equal(image, same_image)
        np.testing.assert_array_equal(label_ids, same_ids)
        assert image.dtype == np.uint8 and label_ids.dtype == np.int32
    labels = np.stack([label_ids for _, label_ids in first])
    assert set(np.unique(labels[:, ::2])) == {0, 1, 2, 3}
    assert {image.shape for image, _ in first} == {(30, 60, 3), (48, 240, 3)}
    assert {1, 3} <= set((labels > 0).sum(axis=1)) <= {1, 2, 3}
    assert set(labels[(labels > 0).sum(axis=1) == 3][:, 1]) == {4}


def test_images_get_the_channels_and_are_no_finer_than_the_input():
    rows = pd.DataFrame({"label": ["aabb"], "height": [50], "width": [1000]})
    data = images_like(rows, {"a": 1, "b": 2}, Shape(50, 16, 1, 2.5), 4, 10, False, 0)
    for image, label_ids in data.as_numpy_iterator():
        assert image.shape == (8, 16, 1)  # so high at least: in its own aspect it would have one row
        assert 2 <= (label_ids > 0).sum() <= 4


def test_resemblance_tells_the_default_look_from_others(tmp_path):
    shape, numbers = Shape(50, 200, 1, 1.0), {c: n for n, c in enumerate(ALPHABET, start=1)}
    paths = list(draw_dataset(30, 0, tmp_path).iterdir())
    table = pd.DataFrame({"label": [path.stem for path in paths], "height": 50, "width": 200})
    images = np.stack([np.asarray(Image.open(path))[..., None] for path in paths])
    real = tf.data.Dataset.from_tensor_slices((images, encode(list(table["label"]), numbers, 5)))
    same, other = [images_like(table, numbers, shape, 5, 30, varied, 0) for varied in (False, True)]
    assert resemblance(real, same) > 0.8 and resemblance(other, same) < 0.4
    blank = tf.data.Dataset.from_tensor_slices((np.full_like(images, 7), tf.zeros([30, 5])))
    assert resemblance(real, blank) == 0

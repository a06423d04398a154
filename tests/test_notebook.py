"""The functions that live in the notebook, one by one."""

import keras
import network
import numpy as np
import pytest
import tensorflow as tf
from images import open_image
from network import Shape

from training.data import scan
from training.synthetic import ALPHABET, draw_dataset

NUMBERS = {character: number for number, character in enumerate(ALPHABET, start=1)}
SHAPE = Shape(50, 200, 1, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_dataset(30, 0, tmp_path_factory.mktemp("synthetic") / "images")


@pytest.mark.parametrize("stretch", [1.0, 2.5])
@pytest.mark.parametrize("size", [(50, 200), (24, 72), (100, 100), (1, 1), (900, 20), (20, 4000)])
def test_preprocess_keeps_the_aspect_and_pads_with_the_mean(study, size, stretch):
    shape = Shape(50, 200, 3, stretch)
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.uint8)
    prepared = study.preprocess(tf.constant(images), shape).numpy()
    assert prepared.shape == (2, 200, 50, 3) and prepared.dtype == np.float32
    height, width = shape.fitted_size(*size)
    assert height == 50 or width == 200
    if min(height, width) > 1:
        assert width / height == pytest.approx(size[1] * stretch / size[0], rel=0.6 / min(height, width))
    if min(size) > 1:
        np.testing.assert_allclose(prepared[:, :width, :height].mean(axis=(1, 2, 3)), 0, atol=1e-3)
    assert (prepared[:, width:] == 0).all() and (prepared[:, :, height:] == 0).all()
    np.testing.assert_allclose(network.prepare(images, shape), prepared, atol=1e-4)


def test_two_lines_are_prepared_alike_with_and_without_tensorflow(study):
    images = np.random.default_rng(0).integers(0, 256, (3, 41, 60, 1)).astype(np.uint8)
    shape = Shape(48, 212, 1, 1.0, 2)
    prepared = study.preprocess(tf.constant(images), shape).numpy()
    np.testing.assert_allclose(network.prepare(images, shape), prepared, atol=1e-4)


def test_augmentation_changes_images_but_not_labels_or_readability(study, folder):
    images = np.stack([open_image(path) for path in sorted(folder.iterdir())])
    prepared, label_ids = study.preprocess(images, SHAPE), tf.ones([30, 5], tf.int32)
    changed, same = study.augment(prepared, label_ids)
    assert changed.shape == prepared.shape and (same.numpy() == label_ids.numpy()).all()
    assert np.isfinite(changed.numpy()).all()
    # Moved and bent, the ink stays inside: as many dark pixels as before, give or take a third.
    dark = [(x.numpy() < -1).mean() for x in (prepared, changed)]
    assert 0.67 < dark[1] / dark[0] < 1.5


def test_only_training_batches_are_shuffled_augmented_and_mixed(study, folder, tmp_path):
    table, _, _ = scan(folder, "(.+)")
    prepared = study.prepare(study.read_images(table, NUMBERS, 5, 1), SHAPE, str(tmp_path))
    in_order = [label_ids.tolist() for _, label_ids in prepared.as_numpy_iterator()]
    images, label_ids = next(study.make_batches(prepared, False).as_numpy_iterator())
    assert images.shape == (30, 200, 50, 1) and label_ids.tolist() == in_order
    np.testing.assert_array_equal(images, np.stack([image for image, _ in prepared.as_numpy_iterator()]))
    batches = study.make_batches(prepared, True, batch_size=32).take(2)
    assert batches.options().autotune.enabled is False  # whose thread delays the end of an iterator
    batches = batches.as_numpy_iterator()
    images, label_ids = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert images.shape == (64, 200, 50, 1) and label_ids[:30].tolist() != in_order
    assert {tuple(ids) for ids in label_ids.tolist()} == {tuple(ids) for ids in in_order}
    assert len({image.tobytes() for image in images}) == 64
    marked = prepared.map(lambda image, ids: (image, tf.zeros_like(ids)))
    batches = study.make_batches(prepared, True, 64, synthetic=marked, share=0.5)
    _, label_ids = next(batches.as_numpy_iterator())
    assert 16 < (label_ids.sum(axis=1) == 0).sum() < 48


def test_a_seed_decides_the_training_batches(study, folder, tmp_path):
    table, _, _ = scan(folder, "(.+)")
    prepared = study.prepare(study.read_images(table, NUMBERS, 5, 1), SHAPE, str(tmp_path))
    drawn = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        batches = study.make_batches(prepared, True, 8, synthetic=prepared, share=0.5).take(20)
        drawn.append(b"".join(images.tobytes() for images, _ in batches.as_numpy_iterator()))
    assert drawn[0] == drawn[1] != drawn[2]


def test_exact_match_is_the_greedy_reading(study):
    frames = {"ab": [1, 1, 0, 2], "aab": [1, 0, 1, 2], "": [0, 0, 0, 0]}
    logits = np.zeros((3, 50, 3), np.float32)
    logits[:, :, 0] = 5
    for row, classes in enumerate(frames.values()):
        logits[row, range(4), classes] = 9
    label_ids = np.array([[1, 2, 0], [1, 2, 0], [0, 0, 0]])
    np.testing.assert_array_equal(study.exact_match(tf.constant(label_ids), tf.constant(logits)), [1, 0, 1])


def test_the_loss_and_its_gradient_are_those_of_keras(study):
    label_ids = tf.constant([[1, 2, 3, 4, 5], [7, 7, 7, 0, 0], [19, 0, 0, 0, 0]])
    logits = 3 * tf.random.stateless_normal([3, 20, 20], (0, 1))
    results = []
    for losses in (study.ctc_losses, tf.function(study.ctc_losses), keras.losses.CTC(reduction=None)):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = losses(label_ids, logits)
        results.append((value, tape.gradient(value, logits)))
    for value, gradient in results[:2]:
        np.testing.assert_allclose(value, results[2][0], rtol=1e-5)
        # float32 holds log-likelihoods near 64 to 8e-6; a gradient has the exponential of several.
        np.testing.assert_allclose(gradient, results[2][1], atol=1e-4)

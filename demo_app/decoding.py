"""CTC: which text a network's outputs spell, how probable it is, and where its characters stand.

After Graves et al., "Connectionist Temporal Classification", 2006. Label ids are the numbers of characters,
from 1 on, padded with `BLANK`.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

BLANK = 0  # the class for "no character here"
BEAM_WIDTH = 16
UNUSUAL = 0.05  # weight of a text shorter or longer than all training labels: 5% are no match for 95%
FRAMES = tf.TensorSpec([None, None, None], tf.float32)  # (batch, frames, classes)


def decode(frames: np.ndarray, lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Find the label sequence of each image with the highest weighted probability.

    A sequence shorter or longer than all the training labels counts `UNUSUAL` times its probability. Where
    the greedy sequence may not be the best, it is the best of those that `search` finds.

    Args:
        frames: float32 (batch, frames, classes), softmax outputs, class 0 the blank.
        lengths: Of the shortest and of the longest training label, in characters.

    Returns:
        label_ids: int64 (batch, at most frames).
        confidence: float32 (batch,), probability of the sequence, 0 to 1: the sum over all its alignments.
    """
    return search_unsure(frames, *(tensor.numpy() for tensor in decode_greedily(frames)), lengths)


@tf.function(input_signature=[FRAMES], autograph=False)
def decode_greedily(frames: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Find what the most probable path of each image spells; frames and results are those of `decode`."""
    logits, logit_lengths = _time_first(frames)
    (sparse,), _ = tf.nn.ctc_greedy_decoder(logits, logit_lengths, blank_index=BLANK)
    label_ids = tf.sparse.to_dense(sparse, default_value=BLANK)
    return label_ids, _probability(label_ids, logits, logit_lengths)


def search_unsure(
    frames: np.ndarray, label_ids: np.ndarray, confidence: np.ndarray, lengths: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Make the results of `decode` out of those of `decode_greedily`."""
    # All other sequences together have the rest of the probability.
    (unsure,) = np.nonzero(_weigh(label_ids, confidence, lengths) <= 1 - confidence)
    if not unsure.size:
        return label_ids, confidence
    found, probability = search(frames[unsure])
    best = np.arange(unsure.size), _weigh(found, probability, lengths).argmax(axis=1)
    confidence = confidence.copy()
    confidence[unsure] = probability[best]
    label_ids = np.pad(label_ids, [(0, 0), (0, frames.shape[1] - label_ids.shape[1])])
    label_ids[unsure] = found[best]
    return label_ids, confidence


def search(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find probable label sequences of any length with a beam search.

    After Hannun et al., "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional
    Recurrent DNNs", 2014.

    Args:
        frames: float32 (batch, frames, classes), softmax outputs, class 0 the blank.

    Returns:
        label_ids: int64 (batch, sequences, frames), `BEAM_WIDTH` sequences, fewer if there are no more.
        probability: float32 (batch, sequences), 0 to 1.
    """
    # The decoder refuses to give more sequences than there are: of each length at least as many as there
    # are characters; but if there is only one, blanks must stand between its repetitions.
    _, count, classes = frames.shape
    most = 1 + ((classes - 1) * count if classes > 2 else (count + 1) // 2)
    label_ids, probability = _search(tf.constant(frames), min(BEAM_WIDTH, most))
    return label_ids.numpy(), probability.numpy()


@tf.function(autograph=False, reduce_retracing=True)
def _search(frames: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    logits, logit_lengths = _time_first(frames)
    blank_last = tf.roll(logits, -1, axis=2)  # as the decoder wants it
    found, _ = tf.nn.ctc_beam_search_decoder(blank_last, logit_lengths, BEAM_WIDTH, top_paths=count)
    shape = tf.shape(frames, tf.int64)[:2]
    dense = [
        tf.sparse.to_dense(tf.sparse.reset_shape(sparse.with_values(sparse.values + 1), shape))
        for sparse in found
    ]
    label_ids = tf.stack(dense, axis=1)
    flat = tf.reshape(label_ids, [-1, shape[1]])
    probability = _probability(flat, tf.repeat(logits, count, axis=1), tf.repeat(logit_lengths, count))
    return label_ids, tf.reshape(probability, [-1, count])


def _time_first(frames: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    logits = tf.math.log(tf.maximum(tf.transpose(frames, [1, 0, 2]), 1e-12))
    count, batch = tf.unstack(tf.shape(logits)[:2])
    return logits, tf.fill([batch], count)


def _probability(label_ids: tf.Tensor, logits: tf.Tensor, logit_lengths: tf.Tensor) -> tf.Tensor:
    # The loss refuses empty sequences: they get any label, and the product of the blanks instead.
    is_empty = tf.reduce_all(label_ids == BLANK, axis=1)
    first = tf.one_hot(tf.zeros_like(logit_lengths), tf.shape(label_ids)[1] + 1, dtype=tf.int32)
    filled = tf.pad(tf.cast(label_ids, tf.int32), [[0, 0], [0, 1]])
    filled += first * tf.cast(is_empty, tf.int32)[:, None]
    loss = tf.nn.ctc_loss(tf.sparse.from_dense(filled), logits, None, logit_lengths, blank_index=BLANK)
    blanks = tf.reduce_sum(tf.nn.log_softmax(logits)[:, :, BLANK], axis=0)
    return tf.minimum(tf.exp(tf.where(is_empty, blanks, -loss)), 1)


def are_usual(label_ids: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """Tell which label sequences are neither shorter nor longer than all the training labels.

    Args:
        label_ids: Integers (..., max_length).
        lengths: Of the shortest and of the longest training label, in characters.

    Returns:
        bool (...).
    """
    count = np.count_nonzero(label_ids != BLANK, axis=-1)
    return (lengths[0] <= count) & (count <= lengths[1])


def _weigh(label_ids: np.ndarray, probability: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    return np.where(are_usual(label_ids, lengths), 1, UNUSUAL) * probability


def align(frames: np.ndarray, label_ids: np.ndarray) -> np.ndarray:
    """Find the most probable CTC alignment of label sequences with their frames.

    Args:
        frames: float32 (batch, frames, classes), softmax outputs, class 0 the blank.
        label_ids: int64 (batch, max_length); each sequence fits into the frames.

    Returns:
        int64 (batch, frames): which label, counted from 0, each frame gives; -1 where blank.
    """
    path = frames.argmax(axis=2)
    starts = path != BLANK
    starts[:, 1:] &= path[:, 1:] != path[:, :-1]
    positions = np.where(path == BLANK, -1, starts.cumsum(axis=1) - 1)
    for row, ids in enumerate(label_ids):
        ids = ids[ids != BLANK]
        # The most probable path of all is the best alignment of what it spells.
        if not np.array_equal(path[row][starts[row]], ids):
            positions[row] = _viterbi(frames[row], ids)
    return positions


def _viterbi(frames: np.ndarray, ids: np.ndarray) -> np.ndarray:
    # Graves et al. 2006: a blank before, between and after the labels.
    states = np.full(2 * len(ids) + 1, BLANK)
    states[1::2] = ids
    may_skip = np.zeros(len(states), bool)  # the blank between two different labels
    may_skip[2:] = (states[2:] != BLANK) & (states[2:] != states[:-2])
    gains = np.log(np.maximum(frames[:, states], 1e-12))  # (frames, states)
    score = np.full(len(states), -np.inf)
    score[:2] = gains[0, :2]
    moves = np.zeros(gains.shape, np.int64)
    options = np.full((3, len(states)), -np.inf)  # stay, go on by one state, by two
    for frame in range(1, len(frames)):
        options[0] = score
        options[1, 1:] = score[:-1]
        options[2, 2:] = np.where(may_skip[2:], score[:-2], -np.inf)
        moves[frame] = options.argmax(axis=0)
        score = options.max(axis=0) + gains[frame]
    path = np.zeros(len(frames), np.int64)
    path[-1] = len(states) - 1 - np.argmax(score[:-3:-1])  # the last blank or the last label
    for frame in range(len(frames) - 1, 0, -1):
        path[frame - 1] = path[frame] - moves[frame, path[frame]]
    return np.where(path % 2, path // 2, -1)


def frames_needed(label: str) -> int:
    """Count the frames that CTC needs for a label: one a character and a blank between equal neighbours."""
    return len(label) + sum(a == b for a, b in itertools.pairwise(label))

"""CTC: which text a network's outputs spell, how probable it is, and where its characters stand.

After Graves et al., "Connectionist Temporal Classification", 2006. Label ids are the numbers of characters,
from 1 on, padded with `BLANK`.
"""

import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from bidi.algorithm import get_display

BLANK = 0  # the class for "no character here"
BEAM_WIDTH = 16
STAND_INS = {0x200C: "\U0001ee00", 0x200D: "\U0001ee01"}  # for joiners, which the algorithm leaves out
UNUSUAL = 0.05  # weight of a text shorter or longer than all training labels: 5% are no match for 95%


def decode(frames: np.ndarray, lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Find the label sequence of each image with the highest weighted probability.

    A sequence shorter or longer than all the training labels counts `UNUSUAL` times its probability. Where
    the greedy sequence may not be the best, it is the best of those that a beam search finds.

    Args:
        frames: float32 (batch, frames, classes), softmax outputs, class 0 the blank.
        lengths: Of the shortest and of the longest training label, in characters.

    Returns:
        label_ids: int64 (batch, at most frames).
        confidence: float32 (batch,), probability of the sequence, 0 to 1: the sum over all its alignments.
    """
    label_ids, confidence = decode_greedily(frames)
    # All other sequences together have the rest of the probability.
    (unsure,) = np.nonzero(_weigh(label_ids, confidence, lengths) <= 1 - confidence)
    if unsure.size:
        label_ids = np.pad(label_ids, [(0, 0), (0, frames.shape[1] - label_ids.shape[1])])
        for row in unsure:
            found, chances = search(frames[row])
            weights = _weigh(found, chances, lengths)
            best = weights.argmax()
            if weights[best] > _weigh(label_ids[row], confidence[row], lengths):
                label_ids[row], confidence[row] = BLANK, chances[best]
                label_ids[row, : found.shape[1]] = found[best]
    return label_ids, confidence


def decode_greedily(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find what the most probable path of each image spells; frames and results are those of `decode`."""
    path, starts = _best_path(frames)
    positions = starts.cumsum(axis=1) - 1
    label_ids = np.zeros((len(frames), positions[:, -1].max(initial=-1) + 1), np.int64)
    rows, columns = np.nonzero(starts)
    label_ids[rows, positions[rows, columns]] = path[rows, columns]
    return label_ids, probability(frames, label_ids)


def _best_path(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    path = frames.argmax(axis=2)
    starts = path != BLANK
    starts[:, 1:] &= path[:, 1:] != path[:, :-1]
    return path, starts


def probability(frames: np.ndarray, label_ids: np.ndarray) -> np.ndarray:
    """Sum the probabilities of all alignments of label sequences, with the forward variables of CTC.

    Args:
        frames: float32 (batch, frames, classes), softmax outputs; a batch of 1 serves all sequences.
        label_ids: int64 (batch, max_length), padded with `BLANK`.

    Returns:
        float32 (batch,), 0 to 1.
    """
    count, length = label_ids.shape
    states = np.full((count, 2 * length + 1), BLANK)  # a blank before, between and after the labels
    states[:, 1::2] = label_ids
    may_skip = (states[:, 2:] != BLANK) & (states[:, 2:] != states[:, :-2])  # the blank between two labels
    emitted = np.take_along_axis(frames.astype(np.float64), states[:, np.newaxis], axis=2)
    forward = np.zeros_like(emitted[:, 0])
    forward[:, :2] = emitted[:, 0, :2]
    for frame in range(1, frames.shape[1]):
        before = forward.copy()
        forward[:, 1:] += before[:, :-1]
        forward[:, 2:] += before[:, :-2] * may_skip
        forward *= emitted[:, frame]
    last = 2 * np.count_nonzero(label_ids != BLANK, axis=1)
    rows = np.arange(count)
    before_last = np.where(last > 0, forward[rows, last - 1], 0)
    return np.minimum(forward[rows, last] + before_last, 1).astype(np.float32)


def search(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find probable label sequences of any length for one image.

    Args:
        frames: float32 (frames, classes), softmax outputs, class 0 the blank.

    Returns:
        label_ids: int64 (sequences, at most frames), at most `BEAM_WIDTH` sequences.
        probability: float32 (sequences,), 0 to 1.
    """
    # Frames that are surely blank are left out, for speed, but for the first of a row after a label.
    is_needed = frames[:, BLANK] <= 0.999
    is_needed[1:] |= is_needed[:-1]
    found = list(search_beam(frames[is_needed], BEAM_WIDTH))
    columns = list(itertools.zip_longest(*found, fillvalue=BLANK))
    label_ids = np.array(columns, np.int64).reshape(-1, len(found)).T
    return label_ids, probability(frames[np.newaxis], label_ids)


def search_beam(
    frames: np.ndarray, width: int, may_begin: Callable[[tuple[int, ...]], bool] | None = None
) -> dict[tuple[int, ...], float]:
    """Search the beam of the most probable label sequences.

    After Hannun et al., "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional
    Recurrent DNNs", 2014.

    Args:
        frames: float32 (frames, classes), softmax outputs of one image, class 0 the blank.
        width: Of the beam, in sequences.
        may_begin: Tells whether a label sequence may go on; None lets all.

    Returns:
        Label sequences with their probabilities, which are comparable with each other only.
    """
    beam, blank, label = [()], np.ones(1), np.zeros(1)  # by whether the last frame is a blank, or a label
    for row in frames.astype(np.float64):
        either, last = blank + label, np.array([ids[-1] if ids else BLANK for ids in beam], int)
        blank, again = either * row[BLANK], label * row[last]
        grown = either[:, np.newaxis] * row
        grown[np.arange(len(beam)), last] = (either - label) * row[last]  # a blank must stand between equals
        grown[:, BLANK] = 0
        place = {ids: number for number, ids in enumerate(beam)}
        for number, ids in enumerate(beam):
            if ids and (shorter := place.get(ids[:-1])) is not None:
                again[number] += grown[shorter, ids[-1]]
                grown[shorter, ids[-1]] = 0
        total = np.concatenate([blank + again, grown.ravel()])
        # All candidates in their order, or just the best ones.
        best = min(width, len(total) - 1)
        order = np.argsort(-total) if may_begin else np.argpartition(-total, best)[:width]
        some, kept = [], []
        for number in order[total[order] > 0].tolist():
            parent, character = divmod(number - len(beam), len(row))
            ids = beam[number] if number < len(beam) else (*beam[parent], character)
            if not may_begin or may_begin(ids):
                some.append(ids)
                kept.append(number)
                if len(some) == width:
                    break
        is_old = np.array(kept, int) < len(beam)
        most = total[kept].max(initial=0) or 1  # or long products would vanish
        label = np.where(is_old, np.concatenate([again, grown.ravel()])[kept], total[kept]) / most
        blank = np.where(is_old, np.concatenate([blank, np.zeros(grown.size)])[kept], 0) / most
        beam = some
    return dict(zip(beam, (blank + label).tolist(), strict=True))


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
    path, starts = _best_path(frames)
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


def reorder(text: str) -> str:
    """Put the characters of a line in the order in which they stand from left to right, or back.

    After Unicode's bidirectional algorithm (UAX #9). A line runs as most of its letters do, so that nearly
    every line that is turned twice is what it was.
    """
    classes = Counter(map(unicodedata.bidirectional, text))
    leftwards = classes["R"] + classes["AL"]
    if not leftwards:
        return text
    turned = get_display(text.translate(STAND_INS), base_dir="R" if leftwards >= classes["L"] else "L")
    return turned.translate({ord(letter): joiner for joiner, letter in STAND_INS.items()})


def to_text(label_ids: Iterable[int], num_to_char: dict[int, str]) -> str:
    """Decode label ids, padded with `BLANK`, into a text in its reading order."""
    return reorder("".join(num_to_char[int(number)] for number in label_ids if number != BLANK))


def frames_needed(label: str) -> int:
    """Count the frames that CTC needs for a label: one a character and a blank between equal neighbours."""
    return len(label) + sum(a == b for a, b in itertools.pairwise(label))

"""demo_app/decoding.py: CTC against all paths counted one by one."""

import itertools

import decoding
import numpy as np
import pytest


def collapse(path):
    return tuple(label for label, _ in itertools.groupby(path) if label != decoding.BLANK)


@pytest.mark.parametrize("spread", [0.3, 0.05])  # the less, the more frames are nearly certain
@pytest.mark.parametrize("lengths", [(0, 5), (2, 3), (3, 3), (5, 5)])
def test_decode_and_align_agree_with_all_paths_counted_one_by_one(lengths, spread):
    rng = np.random.default_rng(0)
    frames = rng.dirichlet([spread] * 3, size=(40, 5)).astype(np.float32)  # 5 frames, 2 characters
    labels, confidences = decoding.decode(frames, lengths)
    alignments = decoding.align(frames, labels)
    for row in range(len(frames)):
        totals, best = {}, {}
        for path in itertools.product(range(3), repeat=5):
            chance = np.prod(frames[row, range(5), path])
            text = collapse(path)
            totals[text] = totals.get(text, 0) + chance
            best[text] = max(best.get(text, (0, ())), (chance, path))
        text = tuple(labels[row][labels[row] != decoding.BLANK])
        odds = {text: 1 if lengths[0] <= len(text) <= lengths[1] else decoding.UNUSUAL for text in totals}
        assert text == max(totals, key=lambda text: totals[text] * odds[text])
        assert confidences[row] == pytest.approx(totals[text], rel=1e-3)
        emitted = [0 if position < 0 else text[position] for position in alignments[row]]
        assert np.prod(frames[row, range(5), emitted]) == pytest.approx(best[text][0], rel=1e-4)
        assert collapse(emitted) == text


@pytest.mark.parametrize("frame_count", [1, 2, 3, 4, 5, 50])
@pytest.mark.parametrize("classes", [2, 3, 20])
def test_few_frames_of_few_characters_are_searched(frame_count, classes):
    frames = np.full((1, frame_count, classes), 1 / classes, np.float32)
    labels, (confidence,) = decoding.decode(frames, [1, 1])
    assert labels.shape[1] <= frame_count
    assert 0 <= confidence <= 1


def test_a_blank_separates_equal_characters_in_the_search():
    frames = np.eye(2, dtype=np.float32)[[0, 0, 1, 0, 0, 1, 0]]
    label_ids, chances = decoding.search(frames)
    assert label_ids.tolist() == [[1, 1]]
    assert chances == pytest.approx([1])


def test_only_blanks_are_searched():
    frames = np.eye(3, dtype=np.float32)[[0, 0, 0, 0]]
    label_ids, chances = decoding.search(frames)
    assert label_ids.shape == (1, 0)
    assert chances == pytest.approx([1])


@pytest.mark.parametrize(("label", "frames"), [("", 0), ("a", 1), ("abab", 4), ("aab", 4), ("aaa", 5)])
def test_frames_needed_are_those_of_the_shortest_path(label, frames):
    assert decoding.frames_needed(label) == frames

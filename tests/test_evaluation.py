"""Metrics against published values, temperature and threshold."""

import numpy as np
import pandas as pd
import pytest

from training import evaluation


def test_metrics_against_known_values():
    # Agresti & Coull 1998, table: 0 of 10 and 9 of 10.
    assert evaluation.wilson_interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert evaluation.wilson_interval(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert evaluation.character_error_rate(["abc", "é漢"], ["abc", "é漢"]) == 0
    assert evaluation.character_error_rate(["kitten", "ab"], ["sitting", ""]) == pytest.approx(5 / 8)
    compared = evaluation.compare_characters(["abc", "ab"], ["axc", "abb"])
    assert list(compared["label"] + ">" + compared["text"]) == ["a>a", "b>x", "c>c", "a>a", "b>b", ">b"]
    # As many edits as the distance counts.
    assert (~evaluation.compare_characters(["abxcd"], ["bcdab"])["right"]).sum() == 4


def test_a_sure_and_wrong_network_gets_a_high_temperature(study):
    rng = np.random.default_rng(0)
    label_ids = rng.integers(1, 3, (40, 3))
    logits = np.zeros((40, 12, 3), np.float32)
    logits[:, :, 0] = 8
    for row, ids in enumerate(label_ids):
        for position, number in enumerate(ids):
            read = 3 - number if row % 4 == 0 and position == 0 else number
            logits[row, 4 * position + 1, read] = 16
    assert evaluation.choose_temperature(logits, label_ids, study.ctc_losses) > 1.5
    right = np.where(np.arange(40) % 4)[0]
    assert evaluation.choose_temperature(logits[right], label_ids[right], study.ctc_losses) == 1


def test_the_threshold_is_the_least_that_keeps_the_promise():
    def choose(confidences, right, usual=True, **options):
        table = pd.DataFrame({"confidence": confidences, "right": np.array(right, bool), "usual": usual})
        return evaluation.choose_threshold(table, **{"least": 1} | options)

    confidences, right = [0.2, 0.9, 0.8, 0.5, 0.7], [1, 1, 1, 0, 1]
    assert choose(confidences, right) == 0.7
    assert choose(confidences, right, precision=0.8) == 0.2
    assert choose(confidences, right, least=4) is None
    assert choose(confidences, [1, 0, 1, 1, 1]) is None
    assert choose(confidences, [1, 0, 1, 1, 1], usual=[True, False, True, True, True]) == 0.2
    assert choose([1, 1, 1, 1], [1, 1, 0, 1]) is None
    assert choose([1, 1, 0.5], [1, 1, 0]) == 1


def test_measure_counts_what_is_sure_and_lists_what_is_misread():
    predictions = pd.DataFrame(
        {
            "label": ["ab", "ab", "cd", "cd"],
            "text": ["ab", "axb", "cd", "cc"],
            "right": [True, False, True, False],
            "confidence": [0.99, 0.95, 0.4, 0.2],
            "usual": [True, False, True, True],
        }
    )
    metrics = evaluation.measure(predictions, [f"x/{n}.png" for n in range(4)], 0.9)
    assert metrics["exact_match"] == 0.5 and metrics["cer"] == pytest.approx(2 / 8)
    assert (metrics["sure"], metrics["sure_and_right"]) == (1, 1)
    assert [row["file"] for row in metrics["misread"]] == ["1.png", "3.png"]
    assert {"label": "d", "text": "c", "count": 1} in metrics["confusions"]
    assert metrics["accuracy_per_character"] == {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.5}
    assert [row["images"] for row in metrics["reliability"]] == [2, 2]
    assert evaluation.measure(predictions, ["x"] * 4, None)["sure"] == 0

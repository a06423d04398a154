"""training/checks.py: what may be wrong with the data, before training and after one that failed."""

import pandas as pd
import pytest
from network import Shape

from training.checks import check, find_causes

SHAPE = Shape(50, 200, 1, 1.0)


def table(labels, height=50, width=200, lines=1, name=""):
    rows = {"label": labels, "path": [f"{name}{number}.png" for number in range(len(labels))]}
    return pd.DataFrame(rows).assign(height=height, width=width, lines=lines, note="")


def splits_of(labels, **options):
    return {name: table(labels, name=name, **options) for name in ("train", "validation", "test")}


def test_check_lists_what_may_be_wrong():
    rejected = pd.DataFrame({"problem": ["no label"] * 4, "path": [f"x/{n}.png" for n in range(4)]})
    rejected.loc[4] = ["unreadable", "x/y.png"]
    rejected["detail"] = [""] * 4 + ["why"]
    labels = {"train": ["ab", "ab"], "validation": ["ac"], "test": ["acd"]}
    splits = {name: table(part, name=name) for name, part in labels.items()}
    splits["validation"]["width"] = 1000
    assert check(rejected, splits, SHAPE).T.to_dict("list") == {
        "no label": ["rejected", 4, "0.png, 1.png, 2.png"],
        "'c' is in no training image": ["kept", 2, "validation0.png, test0.png"],
        "'d' occurs only once": ["kept", 1, "test0.png"],
        "text too small, because the image is so wide": ["kept", 1, "validation0.png"],
        "unreadable": ["rejected", 1, "y.png (why)"],
    }
    assert check(rejected[:0], splits_of(["ab", "ab"]), SHAPE).T.to_dict("list") == {
        "no problem found": ["kept", 6, "train0.png, train1.png, validation0.png"]
    }


@pytest.mark.parametrize(
    ("labels", "options", "problem"),
    [
        (["AB", "BA"], {"height": 200, "width": 50}, "taller than wide"),
        (["AB", "BA"], {"lines": 2}, "two lines of text"),
        (["EB", "ЕB", "EB"], {}, "'Е' (Cyrillic) looks like 'E' (Latin)"),
        (["AB", "ＡB"], {}, "'Ａ' is 'A' in another width"),
        (["ו1-a", "אב"], {}, "mixed text directions: the reading order is ambiguous"),
    ],
)
def test_a_row_for_each_kind_of_trouble(labels, options, problem):
    found = check(pd.DataFrame(columns=["problem", "path", "detail"]), splits_of(labels, **options), SHAPE)
    assert list(found.index) == [problem] and found["images are"].iloc[0] == "kept"


def test_two_lines_may_be_higher_than_wide():
    splits = splits_of(["AB12", "CD34", "AB34", "CD12"], height=120, width=100, lines=2)
    found = check(pd.DataFrame(columns=["problem", "path", "detail"]), splits, Shape(48, 200, 1, 1.0, 2))
    assert list(found.index) == ["no problem found"]


def test_a_note_on_the_label_is_a_row_and_single_letters_may_stand():
    splits = splits_of(["A", "A"], height=200, width=50)
    splits["train"]["note"] = "an invisible character was left out"
    found = check(pd.DataFrame(columns=["problem", "path", "detail"]), splits, SHAPE)
    assert found["files"].to_dict() == {"an invisible character was left out": 2}


MANY = [f"{number * 7919 % 100_000:05}" for number in range(200)]


@pytest.mark.parametrize(
    ("labels", "options", "shape", "words"),
    [
        (MANY, {}, SHAPE, ["None of the usual causes"]),
        (MANY, {"lines": 2}, SHAPE, ["100% of the images seem to contain two lines of text: set LINES to 2"]),
        (MANY, {}, SHAPE._replace(lines=2), ["only 0% of the images seem to contain two lines: set it to 1"]),
        (MANY, {"height": 300, "lines": 2}, SHAPE, ["taller than wide: turn them"]),
        ([f"{label}א" for label in MANY], {}, SHAPE, ["run from right to left"]),
        ([f"{label}{'EЕ'[n % 2]}" for n, label in enumerate(MANY)], {}, SHAPE, ["50% of the labels contain"]),
        ([f"word_{number}" for number in range(200)], {}, SHAPE, ["look like serial numbers"]),
        (MANY[:3] * 70, {}, SHAPE, ["only 3 different labels"]),
        (MANY[:50], {}, SHAPE, ["only 50 images to train with"]),
    ],
)
def test_causes_are_tested_on_the_data(labels, options, shape, words):
    splits = splits_of(labels, **options)
    nothing = pd.DataFrame({"right": [False] * 20})
    found = find_causes(splits, shape, nothing, nothing, 60)
    assert len(found) == len(words) and all(word in cause for word, cause in zip(words, found, strict=True))
    assert find_causes(splits, shape, pd.DataFrame({"right": [True] + [False] * 9}), nothing, 60) == []


def test_what_is_learnt_by_heart_is_a_cause():
    nothing, all_of_it = pd.DataFrame({"right": [False]}), pd.DataFrame({"right": [True]})
    (found,) = find_causes(splits_of(MANY), SHAPE, nothing, all_of_it, 60)
    assert "100% of the training images are read correctly" in found


def test_a_quick_look_is_a_cause():
    nothing = pd.DataFrame({"right": [False] * 20})
    (found,) = find_causes(splits_of([f"{label}א" for label in MANY]), SHAPE, nothing, nothing, 2)
    assert "trained for only 2 epochs" in found

"""training/data.py: labels, checks, the network's input shape, splits."""

import contextlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from runs import ARCHIVE, ROOT

from training.data import (
    Shape,
    check,
    choose_shape,
    digest,
    encode,
    frames_needed,
    scan,
    split,
    to_text,
)
from training.errors import DatasetError
from training.fetching import fetch
from training.synthetic import ALPHABET, draw_dataset


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_dataset(30, 0, tmp_path_factory.mktemp("drawn"))


def test_scan_keeps_each_image_once_and_says_what_it_rejects(drawn, tmp_path):
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
    table, rejected, shape = scan(folder, "(.+)")
    assert shape == (50, 200, 1, 1.0) and shape.frames == 50
    assert sorted(table["label"]) == sorted(p.stem for p in drawn.iterdir() if p != path)
    assert rejected["problem"].value_counts().to_dict() == {
        "copy of another file": 29,
        "same image with different labels": 4,
        "unreadable": 1,
        "nearly blank": 1,
        "label too long for the width": 1,
    } | ({"name or label is not Unicode": 1} if odd.exists() else {})
    assert list(rejected.loc[rejected["detail"] != "", "problem"]) == ["unreadable"]
    assert not table.isna().any(axis=None) and not rejected.isna().any(axis=None)
    assert set(table["height"]) == {50} and table["width"].dtype.kind == "i"
    for pattern, words in ((".+", "one group"), ("(", "no regular expression")):
        with pytest.raises(DatasetError, match=words):
            scan(folder, pattern)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_scan_reads_a_list_of_labels_wherever_it_lies(drawn, tmp_path, kind):
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
    table, rejected, _ = scan(tmp_path, "(.+)")
    assert {"NA", "01", 'é, "b"', "Ab"} <= set(table["label"]) and len(table) == len(names) - 2
    assert sorted(rejected["problem"]) == ["no label", "no label", "unreadable"]
    assert rejected.set_index("problem")["detail"]["unreadable"].startswith("There is no file")
    assert "ab" in set(scan(tmp_path, "(.+)", ignore_case=True)[0]["label"])
    write(rows, tmp_path)
    with pytest.raises(DatasetError, match="Leave one"):
        scan(tmp_path, "(.+)")
    (folder / f"labels.{kind}").unlink()
    assert len(scan(tmp_path, "(.+)")[0]) == len(names) - 2  # found by their names alone
    write(rows.rename(columns={"label": "text"}), tmp_path)
    with pytest.raises(DatasetError, match="entry 1 lacks the columns filename and label"):
        scan(tmp_path, "(.+)")


def test_lists_with_other_separators_or_mistakes(drawn, tmp_path):
    folder = shutil.copytree(drawn, tmp_path / "images" / "a")
    names = sorted(path.name for path in folder.iterdir())
    for name in names[:2]:
        (folder.parent / "b").mkdir(exist_ok=True)
        shutil.copy(folder / names[2], folder.parent / "b" / name)
    path = folder.parent / "Labels.CSV"

    def scan_list(*lines):
        path.write_text("\n".join(["filename;label", *lines]), encoding="utf-8-sig")
        return scan(folder.parent, "(.+)")

    table, rejected, _ = scan_list(*(f"a\\{name};l\u00a0 {number}" for number, name in enumerate(names)))
    assert sorted(table["label"]) == sorted(f"l {number}" for number in range(2, len(names)))
    problems = rejected["problem"].value_counts()  # two names stand twice, so nobody knows which is meant
    assert problems["unreadable"] == 2 and problems["no label"] == 4
    for lines, words in [
        (["1.png;a;b"], "too many fields"),
        (['1.png;"a', "2.png;b", '3.png;c"'], "line break"),
        (["../../secret.png;a"], "not below"),
    ]:
        with pytest.raises(DatasetError, match=words):
            scan_list(*lines)
    path.write_bytes(b"filename,label\n1.png,\xe9\n")
    with pytest.raises(DatasetError, match="UTF-8"):
        scan(folder.parent, "(.+)")
    path.unlink()
    for row in ('{"filename": null, "label": "a"}', '{"filename": "1.png", "label": ["a"]}'):
        (folder / "labels.jsonl").write_text(row)
        with pytest.raises(DatasetError, match="entry 1 must be texts"):
            scan(folder.parent, "(.+)")
    (folder / "labels.jsonl").write_text(
        "".join(f'{{"filename": "{name}", "label": "{name[:-4]}\\ud800"}}\n' for name in names)
    )
    with pytest.raises(DatasetError, match="not Unicode"):
        scan(folder, "(.+)")


READ = """
import json, resource, sys
from pathlib import Path
import keras
import psutil
from training.data import scan
from training.errors import DatasetError
from training.fetching import fetch
from training.fitting import load_start
most = psutil.Process().memory_info().vms + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (most, most))  # what reads without end ends in a MemoryError
for path in map(Path, sys.argv[1:]):
    try:
        if path.suffix == ".zip":
            said = fetch(str(path), path.parent / "data", 0)
        elif path.suffix == ".keras":
            said = load_start(keras.Sequential(), path, "")
        else:
            rejected = scan(path, "(.+)")[1]
            said = {Path(row.path).name: row.problem + row.detail for row in rejected.itertuples()}
    except (DatasetError, ValueError) as error:
        said = str(error)
    print(json.dumps(said))
"""


def read_apart(*paths):
    """Read folders, archives and starts in another process, which can be ended where it hangs.

    Returns:
        What was rejected in a folder, or the error.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "demo_app")])}
    command = [sys.executable, "-c", READ, *map(str, paths)]
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=100, check=True).stdout
    return [json.loads(line) for line in said.splitlines()]


def make_large(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole, which takes no room on the disk


@pytest.mark.skipif(sys.platform == "win32", reason="has neither pipes nor devices in folders")
def test_only_files_are_read(drawn, tmp_path):
    """Whatever else lies in a folder or is named by a list neither hangs nor fills the memory."""
    odd = shutil.copytree(drawn, tmp_path / "odd")
    os.mkfifo(odd / "pipe.png")
    (odd / "endless.png").symlink_to("/dev/zero")
    (odd / "loop.png").symlink_to(odd / "loop.png")
    (odd / "folder.png").mkdir()
    make_large(odd / "large.bmp")
    listed = shutil.copytree(drawn, tmp_path / "listed")
    names = ["a\0.png", "b" * 5000, "\ud800.png"]
    rows = [{"filename": path.name, "label": path.stem} for path in drawn.iterdir()]
    rows += [{"filename": name, "label": name[0]} for name in names]
    (listed / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, missing = read_apart(odd, listed)
    for name, words in [
        ("pipe.png", "is not a file"),
        ("endless.png", "is not a file"),
        ("loop.png", "Too many levels"),
        ("folder.png", "is a folder"),
        ("large.bmp", "more than"),
    ]:
        assert words in found.pop(name)
    assert not found
    problems = ["unreadable", "too long", "not Unicode"]
    assert all(words in problem for words, problem in zip(problems, missing.values(), strict=True))


@pytest.mark.skipif(sys.platform == "win32", reason="has neither pipes nor devices in folders")
def test_no_other_list_archive_or_start_is_read(tmp_path):
    kinds = {
        "pipe": os.mkfifo,
        "endless": lambda path: path.symlink_to("/dev/zero"),
        "folder": lambda path: path.mkdir(),
        "broken": lambda path: path.symlink_to("nowhere"),
        "large": make_large,
    }
    lists = [tmp_path / kind / "labels.csv" for kind in kinds]
    archives = [tmp_path / f"{kind}.zip" for kind in kinds if kind != "folder"]
    starts = [tmp_path / f"{kind}.keras" for kind in kinds]
    for path in (*lists, *archives, *starts):
        path.parent.mkdir(exist_ok=True)
        kinds[path.parent.name if path in lists else path.stem](path)
    errors = read_apart(*(path.parent for path in lists), *archives, *starts)
    for path, error in zip([*lists, *archives, *starts], errors, strict=True):
        assert path.name in error and "\n" not in error
    assert all(
        error.startswith(f"{path} can't be used (") for path, error in zip(lists, errors, strict=False)
    )


def test_colour_is_kept_where_grey_would_lose_the_text(tmp_path):
    for number in range(12):
        image = Image.new("RGB", (90, 30), (255, 0, 0))
        image.paste((0, 130, 0), (10 + number, 8, 60, 22))  # as dark as the red
        image.save(tmp_path / f"{number}.webp", lossless=True)
    assert scan(tmp_path, "(.+)")[2].channels == 3
    assert scan(tmp_path, "(.+)", colour=False)[2].channels == 1


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
def test_the_shape_follows_from_images_and_labels(size, label, expected):
    table = pd.DataFrame({"width": size[0], "height": size[1], "label": [label] * 5, "grey": 1.0})
    shape = choose_shape(table, None)
    assert shape[:3] == expected[:3] and shape.stretch == pytest.approx(expected[3], abs=0.01)
    assert shape.frames >= 2.5 * frames_needed(label) - 1


@pytest.mark.parametrize("stretch", [1.0, 2.5])
@pytest.mark.parametrize("size", [(50, 200), (24, 72), (100, 100), (1, 1), (900, 20), (20, 4000)])
def test_images_fit_into_the_shape_with_their_aspect(size, stretch):
    shape = Shape(50, 200, 3, stretch)
    fitted = shape.fitted_size(*size)
    height, width = fitted.numpy()
    assert fitted.dtype == "int32" and height <= 50 and width <= 200 and (height == 50 or width == 200)
    if min(height, width) > 1:
        assert width / height == pytest.approx(size[1] * stretch / size[0], rel=0.6 / min(height, width))
    edges = shape.frame_edges(*size).numpy()
    assert len(edges) == shape.frames + 1 and edges[0] == 0 and (np.diff(edges) >= 0).all()
    assert edges[-1] == pytest.approx(size[1])


def test_check_lists_what_may_be_wrong():
    rejected = pd.DataFrame({"problem": ["no label"] * 4, "path": [f"x/{n}.png" for n in range(4)]})
    rejected.loc[4] = ["unreadable", "x/y.png"]
    rejected["detail"] = [""] * 4 + ["why"]
    labels = {"train": ["ab", "ab"], "validation": ["ac"], "test": ["acd"]}
    splits = {
        name: pd.DataFrame({"label": part, "path": [f"{name}{n}.png" for n in range(len(part))]})
        for name, part in labels.items()
    }
    for part in splits.values():
        part[["height", "width"]] = 50, 200
    splits["validation"]["width"] = 1000
    shape = Shape(50, 200, 1, 1.0)
    assert check(rejected, splits, shape).T.to_dict("list") == {
        "no label": ["rejected", 4, "0.png, 1.png, 2.png"],
        "'c' is in no training image": ["kept", 2, "validation0.png, test0.png"],
        "'d' occurs only once": ["kept", 1, "test0.png"],
        "so wide that few rows are left": ["kept", 1, "validation0.png"],
        "unreadable": ["rejected", 1, "y.png (why)"],
    }
    splits = dict.fromkeys(splits, splits["train"])
    assert check(rejected[:0], splits, shape).T.to_dict("list") == {
        "nothing to complain about": ["kept", 6, "train0.png, train1.png, train0.png"]
    }


def test_scan_stops_where_there_is_too_little(drawn, tmp_path):
    with pytest.raises(DatasetError, match="no images"):
        scan(tmp_path, "(.+)")
    with pytest.raises(DatasetError, match=r"Only 0 of 30 .*no label"):
        scan(drawn, "never(.+)")
    for path in drawn.iterdir():
        shutil.copy(path, tmp_path / f"same_{path.name}")
    with pytest.raises(DatasetError, match="All 30 images have the label 'same'"):
        scan(tmp_path, "(same)")
    for path in tmp_path.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"Only 0 of 30 .*'unreadable': 30"):
        scan(tmp_path, "(.+)")


@pytest.mark.parametrize("split_by", ["image", "label"])
def test_folds_are_disjoint_and_cover_every_image_once(split_by):
    table = pd.DataFrame({"label": [f"{n % 301}" for n in range(963)]})
    tests = []
    for fold in range(10):
        splits = split(table, 7, fold, None, split_by)
        indexes = [index for part in splits.values() for index in part.index]
        assert sorted(indexes) == list(range(963))
        assert 80 <= len(splits["test"]) <= 110 and 80 <= len(splits["validation"]) <= 110
        if split_by == "label":
            assert not set(splits["test"]["label"]) & set(splits["train"]["label"])
            assert not set(splits["validation"]["label"]) & set(splits["train"]["label"])
        tests.extend(splits["test"].index)
    assert sorted(tests) == list(range(963))
    again = split(table, 7, 9, None, split_by)
    assert all(again[name].equals(splits[name]) for name in splits)


def test_split_takes_so_many_labels_and_refuses_what_can_not_be():
    table = pd.DataFrame({"label": [f"{n}" for n in range(963)]})
    for count in (10, 25, 50, 100):
        splits = split(table, 1, None, count, "image")
        assert len(splits["train"]) + len(splits["validation"]) == count
        assert len(splits["test"]) == 963 - count and len(splits["validation"]) >= 1
    for arguments, words in [
        ((0, 10, None, "image"), "FOLD"),
        ((0, None, None, "word"), "SPLIT_BY"),
        ((0, None, 1, "image"), "train"),
        ((0, None, 867, "image"), "LABELS is 867; set it to None or a number from 1 to 866"),
    ]:
        with pytest.raises(ValueError, match=words):
            split(table, *arguments)


def test_labels_survive_the_way_to_numbers_and_back():
    char_to_num = {character: number for number, character in enumerate("ab é漢", start=1)}
    num_to_char = {number: character for character, number in char_to_num.items()}
    labels = ["a b", "éé", "漢"]
    label_ids = encode(labels, char_to_num, 4)
    assert label_ids.dtype == np.int32 and label_ids.shape == (3, 4)
    assert [to_text(row, num_to_char) for row in label_ids] == labels


def test_the_digest_tells_data_by_labels_images_and_order_alone():
    table = pd.DataFrame({"path": ["a", "b"], "label": ["1", "é"], "digest": ["x", "y"]})
    same = [table, table.assign(path="z"), table.set_axis([5, 6])]
    others = [table[::-1], table[:1], table.assign(label=["1", "e"]), table.assign(digest=["x", "z"])]
    assert len({digest(one) for one in same}) == 1
    assert len({digest(one) for one in (table, *others)}) == 5


@pytest.mark.skipif(not ARCHIVE.exists(), reason="the shared archive is not here")
def test_the_real_archive_has_each_image_once(tmp_path):
    table, rejected, shape = scan(fetch(str(ARCHIVE), tmp_path, 0)[0], "(.+)")
    assert len(table) == 963 and set(rejected["problem"]) == {"copy of another file"}
    assert shape == (50, 200, 1, 1.0)
    assert "".join(sorted(set("".join(table["label"])))) == ALPHABET

"""training/labels.py and what it reads lists with: every format, drawn as its tool writes it."""

import codecs
import csv
import hashlib
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from folders import list_files
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from training.errors import DatasetError
from training.labels import find_labels
from training.lists import READERS
from training.names import Names, find_split

PATTERN = "(.+)"


def lay(folder, files):
    """Write files of a folder: texts, bytes, tables as Parquet. Images hold nothing, for none is opened."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pd.DataFrame):
            content.to_parquet(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")
    return folder


def images(*names):
    return dict.fromkeys(names, b"")


def read(folder, label_from=None, pattern=PATTERN):
    """The labels by image, those that are empty left out, and what is said."""
    found = find_labels(folder, pattern, label_from)
    labels = {image.relative_to(folder).as_posix(): label for image, label, _ in found.rows if label}
    assert len({(image, label) for image, label, _ in found.rows}) == len(found.rows)
    return labels, found.said


def label_studio(name, *texts, **more):
    value = {"x": 0, "y": 0, "width": 100, "height": 100, "rotation": 0}
    area = {"id": "a", "type": "rectangle", "to_name": "image", "from_name": "bbox", "value": value}
    labelled = {**area, "type": "labels", "from_name": "label", "value": {**value, "labels": ["Text"]}}
    read = {**area, "type": "textarea", "from_name": "transcription", "value": {**value, "text": list(texts)}}
    done = {"id": 1, "completed_by": 1, "result": [area, labelled, read], "was_cancelled": False, **more}
    guess = {"result": [{**read, "value": {"text": ["guess"]}}]}
    data = {"ocr": f"/data/upload/1/{name}"}
    return {"id": 1, "annotations": [done], "predictions": [guess], "data": data, "file_upload": name}


PLAIN = {"0.png": "TR4254", "1.png": "00123", "2.png": "é, 7"}
HEADER = "filename,label\n"
ROWS = '0.png,TR4254\n1.png,00123\n2.png,"é, 7"\n'
FORMATS = {
    "csv": ({"labels.csv": HEADER + ROWS}, PLAIN, "labels.csv, columns filename and label"),
    "csv of another name": ({"annot/x.CSV": HEADER + ROWS}, PLAIN, "annot/x.CSV, columns filename and label"),
    "byte-order mark": ({"labels.csv": "\ufeff" + HEADER + ROWS}, PLAIN, "columns filename and label"),
    "old Mac's line ends": ({"labels.csv": (HEADER + ROWS).replace("\n", "\r")}, PLAIN, "columns"),
    "Excel, semicolons, cp1252": (
        {"labels.csv": "filename;label\r\n0.png;TR4254\r\n1.png;00123\r\n2.png;é, 7\r\n".encode("cp1252")},
        PLAIN,
        "columns filename and label",
    ),
    "Excel, sep=": (
        {"x.csv": "sep=;\r\nFile Name;Plate Text\r\n0.png;A,1\r\n"},
        {"0.png": "A,1"},
        "File Name",
    ),
    "Excel, Unicode text": (
        {"x.txt": codecs.BOM_UTF16_LE + "filename\tlabel\r\n2.png\té, 7\r\n".encode("utf-16-le")},
        {"2.png": "é, 7"},
        "columns filename and label",
    ),
    "tsv, unquoted": ({"x.tsv": 'image\ttext\n0.png\t"5" tall\n'}, {"0.png": '"5" tall'}, "image and text"),
    "columns the other way round": (
        {"x.csv": 'ID, Text ,image_path\n1,a,0.png\n2,"b, ""c""",1.png\n3,d, e,2.png\n'},
        {"0.png": "a", "1.png": 'b, "c"', "2.png": "d, e"},
        "columns image_path and Text",
    ),
    "text and class": ({"x.csv": "file_name,label,text\n0.png,3,abc\n"}, {"0.png": "abc"}, "and text"),
    "EasyOCR": (
        {"labels.csv": 'filename,words\n0.png,TR4,254, x\n1.png,5" pipe\n2.png,"a" or b\n'},
        {"0.png": "TR4,254, x", "1.png": '5" pipe', "2.png": '"a" or b'},
        "columns filename and words",
    ),
    "quoted names alone": (
        {"x.csv": '"0.png",TR4,254\n"1.png",b\n'},
        {"0.png": "TR4,254", "1.png": "b"},
        "two",
    ),
    "Kaggle's handwritten names": (
        {"written_name_train_v2.csv": "FILENAME,IDENTITY\n0.png,BALTHAZAR\n1.png,\n2.png,NA\n"},
        {"0.png": "BALTHAZAR", "2.png": "NA"},
        "columns FILENAME and IDENTITY",
    ),
    "PaddleOCR": (
        {"rec_gt_train.txt": 'train_data/rec/0.png\tTR 42, "x"\n1.png\t00123\n'},
        {"0.png": 'TR 42, "x"', "1.png": "00123"},
        "rec_gt_train.txt, two columns without a header",
    ),
    "PPOCRLabel": (
        {
            **images(
                "crop_img/page_crop_0.jpg", "crop_img/page_crop_1.jpg", "page.jpg", "other.jpg", "b.jpg"
            ),
            "rec_gt.txt": "crop_img/page_crop_0.jpg\tA B\ncrop_img/page_crop_1.jpg\tC\n",
            "Label.txt": 'x/page.jpg\t[{"transcription": "A B", "points": [[1, 2], [3, 4]]}]\n' * 3,
            "fileState.txt": "C:\\x\\page.jpg\t1\nC:\\x\\other.jpg\t1\nC:\\x\\b.jpg\t1\n",
        },
        {"crop_img/page_crop_0.jpg": "A B", "crop_img/page_crop_1.jpg": "C"},
        "rec_gt.txt, two columns without a header: page_crop_0",
    ),
    "deep-text-recognition-benchmark": (
        {"gt.txt": "0.png TR4254\n1.png two words, here\n" + "".join(f"x/{n}.png x\n" for n in range(3, 11))},
        {"0.png": "TR4254", "1.png": "two words, here"},
        "gt.txt, two columns",
    ),
    "ICDAR": (
        {"gt.txt": '\ufeff0.png, "Tiredness"\r\n1.png, "a, b"\r\n'},
        {"0.png": "Tiredness", "1.png": "a, b"},
        "gt.txt, two columns",
    ),
    "no header, commas": (
        {"x.txt": "0.png,TR4,254\n1.png,a\n"},
        {"0.png": "TR4,254", "1.png": "a"},
        "two columns",
    ),
    "no header, semicolons": ({"x.csv": "0.png;a\n1.png;b\n"}, {"0.png": "a", "1.png": "b"}, "two columns"),
    "no header, no suffixes": ({"x.csv": "0,a\n1,b\n"}, {"0.png": "a", "1.png": "b"}, "two columns"),
    "tesstrain": (
        {**images("a.b_1.tif"), "a.b_1.gt.txt": "un 1\n", "0.gt.txt": "\ufeffzero\n", "all-gt": "x"},
        {"a.b_1.tif": "un 1", "0.png": "zero"},
        r"files such as \S+.gt.txt",
    ),
    "calamari": (
        {**images("01.nrm.png", "02.nrm.png"), "01.gt.txt": "one", "02.gt.txt": "two"},
        {"01.nrm.png": "one", "02.nrm.png": "two"},
        "files such as",
    ),
    "texts beside the images": (
        {"0.txt": "zero", "1.txt": "one", "2.txt": "two\n"},
        {"0.png": "zero", "1.png": "one", "2.png": "two"},
        "files such as",
    ),
    "docTR": (
        {
            **images("images/img_0.jpg"),
            "labels.json": '{"img_0.jpg": "TR4254", "0.png": 12.50, "1.png": null, "2.png": NaN}',
        },
        {"images/img_0.jpg": "TR4254", "0.png": "12.50"},
        "labels.json, a dictionary",
    ),
    "JSON, a list": (
        {"x.json": '[{"file": "0.png", "transcription": 007e1}, {"file": "1.png"}]'.replace("007e1", "7.10")},
        {"0.png": "7.10"},
        "columns file and transcription",
    ),
    "JSON, a list for each split": (
        {"x.json": '{"train": [{"image": "0.png", "text": "a"}], "test": [{"image": "1.png", "text": "b"}]}'},
        {"0.png": "a", "1.png": "b"},
        "columns image and text",
    ),
    "JSON, an object for each file": (
        {"x.json": '{"0.png": {"text": "a", "w": 3}, "1.png": {"text": "b"}}'},
        {"0.png": "a", "1.png": "b"},
        "columns filename and text",
    ),
    "JSON in a .txt": ({"x.txt": '[{"image": "0.png", "text": "a"}]'}, {"0.png": "a"}, "image and text"),
    "JSON lines": (
        {"x.jsonl": '{"file_name": "0.png", "text": "a"}\n\n{"text": "b", "file_name": "1.png"}\n'},
        {"0.png": "a", "1.png": "b"},
        "columns file_name and text",
    ),
    "MMOCR": (
        {
            "textrecog_train.json": '{"metainfo": {"task_name": "textrecog"}, "data_list": ['
            '{"img_path": "textrecog_imgs/0.png", "instances": [{"text": "a"}]}]}'
        },
        {"0.png": "a"},
        "columns image and text",
    ),
    "Parquet": (
        {
            "metadata.parquet": pd.DataFrame(
                {"file_name": ["0.png", "1.png", "2.png"], "text": ["a", None, "c"]}
            )
        },
        {"0.png": "a", "2.png": "c"},
        "metadata.parquet, columns file_name and text",
    ),
    "Parquet with numbers": (
        {"x.parquet": pd.DataFrame({"file_name": ["0.png"], "label": [12], "box": [[1.0]]})},
        {"0.png": "12"},
        "columns file_name and label",
    ),
    "Label Studio": (
        {
            "project-1-at-2024.json": json.dumps(
                [
                    label_studio("0a1b2c3d-0.png", "TR4254"),
                    label_studio("9f8e7d6c-1.png", "no", was_cancelled=True),
                    label_studio("9f8e7d6c-2.png", "a b"),
                ]
            )
        },
        {"0.png": "TR4254", "2.png": "a b"},
        "project-1-at-2024.json, columns image and text",
    ),
    "Label Studio, JSON-MIN": (
        {
            "project.json": '[{"ocr": "/data/local-files/?d=my%20files/0.png", "id": 1, "label": [{"x": 1}], '
            '"transcription": "a"}, {"ocr": "/data/upload/1/0a1b2c3d-1.png", "transcription": ["b"]}]'
        },
        {"0.png": "a", "1.png": "b"},
        "columns ocr and transcription",
    ),
    "Label Studio, CSV": (
        {"project.csv": 'image,id,transcription,annotator\n"/data/upload/1/0a1b2c3d-0.png",1,"a ""b""",1\n'},
        {"0.png": 'a "b"'},
        "columns image and transcription",
    ),
    "paths of other machines": (
        {"x.csv": "filename,label\n/content/drive/My Drive/0.png,a\nC:\\Users\\x\\1.png,b\n../../2.png,c\n"},
        {"0.png": "a", "1.png": "b", "2.png": "c"},
        "columns",
    ),
    "other suffixes, case and accents": (
        {**images("Caf\u00e9.PNG"), "x.csv": "filename,label\ncafe\u0301.jpg,a\n0,b\n1.PNG,c\n"},
        {"Caf\u00e9.PNG": "a", "0.png": "b", "1.png": "c"},
        "columns",
    ),
    "a list that names only some, besides notes": (
        {
            "x.csv": HEADER + "0.png,a\n",
            "README.txt": "image, text\nof 0.png, ...",
            "notes.txt": "1.png is odd\n\n\n",
        },
        {"0.png": "a"},
        "x.csv",
    ),
}


@pytest.mark.parametrize(("files", "labels", "where"), FORMATS.values(), ids=FORMATS)
def test_format(tmp_path, files, labels, where):
    found, said = read(lay(tmp_path / "set", images(*PLAIN) | files))
    assert found == labels
    assert said[0].startswith("Labels come from ")
    import re

    assert re.search(where, said[0])


SPLITS = {
    "fast-plate-ocr": {
        "train_annotations.csv": "image_path,plate_text\ntrain/0.png,a\ntrain/1.png,b\n",
        "val_annotations.csv": "image_path,plate_text\nval/0.png,c\n",
        "test_annotations.csv": "image_path,plate_text\ntest/0.png,d\n",
    },
    "PaddleOCR": {
        "rec_gt_train.txt": "train/0.png\ta\ntrain/1.png\tb\n",
        "rec_gt_val.txt": "val/0.png\tc\n",
        "rec_gt_test.txt": "test/0.png\td\n",
    },
    "docTR": {
        "train/labels.json": '{"0.png": "a", "1.png": "b"}',
        "val/labels.json": '{"0.png": "c"}',
        "test/labels.json": '{"0.png": "d"}',
    },
    "Hugging Face": {
        "train/metadata.csv": "file_name,text\n0.png,a\n1.png,b\n",
        "val/metadata.jsonl": '{"file_name": "0.png", "text": "c"}',
        "test/metadata.parquet": pd.DataFrame({"file_name": ["0.png"], "text": ["d"]}),
    },
    "column": {
        "labels.csv": "filename,split,label\n"
        "train/0.png,train,a\ntrain/1.png,training,b\nval/0.png,dev,c\ntest/0.png,test,d\n"
    },
    "JSON": {
        "labels.json": '{"train": [{"filename": "train/0.png", "label": "a"}, {"filename": "train/1.png", '
        '"label": "b"}], "val": [{"filename": "val/0.png", "label": "c"}], "test": [{"filename": '
        '"test/0.png", "label": "d"}]}'
    },
    "one list": {"labels.csv": HEADER + "train/0.png,a\ntrain/1.png,b\nval/0.png,c\ntest/0.png,d\n"},
    "texts": {"train/0.gt.txt": "a", "train/1.gt.txt": "b", "val/0.gt.txt": "c", "test/0.gt.txt": "d"},
}


@pytest.mark.parametrize("files", SPLITS.values(), ids=SPLITS)
def test_lists_and_folders_give_splits(tmp_path, files):
    """Several lists are merged, and name images from where they lie, though others are called the same."""
    lay(tmp_path, images("train/0.png", "train/1.png", "val/0.png", "test/0.png") | files)
    found = find_labels(tmp_path, PATTERN, None)
    rows = {(image.relative_to(tmp_path).as_posix(), label): split for image, label, split in found.rows}
    assert rows == {
        ("train/0.png", "a"): "train",
        ("train/1.png", "b"): "train",
        ("val/0.png", "c"): "validation",
        ("test/0.png", "d"): "test",
    }
    assert any("give the splits" in line and "test (1 images)" in line for line in found.said)


def test_lists_give_splits_of_images_in_one_folder(tmp_path):
    names = [f"{number}.png" for number in range(4)]
    every = HEADER + "".join(f"{name},{name[0]}\n" for name in names)
    some = {"labels.csv": every, "test.csv": HEADER + "3.png,3\n"}
    column = {"labels.csv": "filename,label,subset\n0.png,0,train\n1.png,1,\n2.png,2,x\n3.png,3,test\n"}
    for number, lists in enumerate((some, column)):
        rows = find_labels(lay(tmp_path / f"{number}", images(*names) | lists), PATTERN, None).rows
        assert {image.name: split for image, _, split in rows}["3.png"] == "test"
        assert not {"test", "validation"} & {split for image, _, split in rows if image.name != "3.png"}


def test_the_label_of_an_image_that_is_gone_goes_to_no_other(tmp_path):
    lists = {f"{part}/metadata.csv": HEADER + f"0.png,{part}0\n1.png,{part}1\n" for part in ("train", "test")}
    folder = lay(tmp_path / "set", images("train/1.png", "test/0.png", "test/1.png", "more/2.png") | lists)
    lay(folder, {"labels.csv": HEADER + "train/2.png,other\ntrain/1.png,train1\n"})
    found = find_labels(folder, PATTERN, None)
    labels = {image.relative_to(folder).as_posix(): label for image, label, _ in found.rows}
    assert labels == {"train/1.png": "train1", "test/0.png": "test0", "test/1.png": "test1", "more/2.png": ""}
    assert sorted(found.missing) == [("0.png", "train0"), ("train/2.png", "other")]
    folder = lay(
        tmp_path / "one", images("0.png", "1.png") | {"labels.csv": HEADER + "0.png,a\n0.jpg,b\n1.PNG,c\n"}
    )
    assert read(folder)[0] == {"0.png": "a", "1.png": "c"}


def test_lists_that_disagree_are_both_heard_however_they_name_an_image(tmp_path):
    lists = {"a.csv": HEADER + "0.png,right\n", "b.csv": HEADER + "0.jpg,wrong\n"}
    for part in ("", "sub/"):
        folder = lay(tmp_path / f"set{len(part)}", images(f"{part}0.png", "1.png") | lists)
        if part:
            lay(folder, {"a.csv": HEADER + "sub/0.png,right\n", "b.csv": HEADER + "/other/sub/0.PNG,wrong\n"})
        found = find_labels(folder, PATTERN, None)
        assert {label for _, label, _ in found.rows} == {"right", "wrong", ""} and not found.missing


@pytest.mark.parametrize("name", ["/home/me/set/train/2.png", "Train/2.png", "C:\\x\\train\\2.jpg"])
def test_an_image_of_another_folder_than_the_named_one_is_not_meant(tmp_path, name):
    folder = lay(tmp_path / "set", images("train/1.png", "test/2.png", "set/3.png", "4.png"))
    lay(folder, {"labels.csv": HEADER + f"{name},gone\nset/4.png,here\n"})
    labels, _ = read(folder)
    assert labels == {"4.png": "here"}


def test_a_list_beside_the_folder_is_named_if_it_means_the_folder_or_half_of_it(tmp_path):
    names = ["tt5d.png", "k4mz.png", "w2pq.png", "b88c.png", "n7xc.png"]
    folder = lay(tmp_path / "set", images(*names))
    lay(tmp_path, {"other.csv": HEADER + "tt5d.png,a\n"})
    assert read(folder)[0]["tt5d.png"] == "tt5d"
    for rows in ("set/tt5d.png,a\n", "".join(f"{name},a\n" for name in names[:3])):
        lay(tmp_path, {"other.csv": HEADER + rows})
        with pytest.raises(DatasetError, match=r"other\.csv lists images of"):
            read(folder)


def test_a_pattern_that_lists_make_useless_is_named(tmp_path):
    folder = lay(tmp_path / "set", images(*PLAIN) | {"labels.csv": HEADER + ROWS})
    assert any("LABEL_PATTERN is for file names only" in line for line in read(folder, pattern="(.)")[1])


def test_splits_are_named_by_whole_words():
    assert find_split("data", "train-00000-of-00001.parquet") == "train"
    assert find_split("test", "latest_contest.csv") == "test"
    assert find_split("valid", "train_test.csv") == "" == find_split("devices", "images")


def test_labels_from_folders_and_names_are_taken_where_somebody_says_so(tmp_path):
    lay(tmp_path / "set", images("train/7/img_1.png", "test/8/img_2.png", "img_3.png") | {"labels.csv": "x"})
    labels, said = read(tmp_path / "set", "folder")
    assert labels == {"train/7/img_1.png": "7", "test/8/img_2.png": "8"}
    assert said[0] == "Labels come from the folder names: img_2.png is '8', img_1.png is '7'."
    assert {split for _, _, split in find_labels(tmp_path / "set", PATTERN, "folder").rows} == {
        "",
        "test",
        "train",
    }
    labels, said = read(tmp_path / "set", "name")
    assert labels["train/7/img_1.png"] == "img_1" and "look like serial numbers" in said[1]
    labels, said = read(tmp_path / "set", "name", r"img_(.+)")
    assert labels["img_3.png"] == "3" and said[0].startswith(
        "Labels come from the file names, by LABEL_PATTERN"
    )


def test_a_list_can_be_named_wherever_it_lies(tmp_path):
    folder = lay(
        tmp_path / "set", images("a/0.png", "1.png") | {"x.csv": HEADER + "0.png,no\n", "data": "0.png,a\n"}
    )
    lay(tmp_path, {"other.csv": HEADER + "set/a/0.png,b\nset/1.png,c\n"})
    assert read(folder, "data")[0] == {"a/0.png": "a"}
    for path in ("other.csv", tmp_path / "other.csv", str(tmp_path / "other.csv")):
        assert read(folder, path)[0] == {"a/0.png": "b", "1.png": "c"}
    for path in ("nowhere.csv", "a"):
        with pytest.raises(DatasetError, match=rf"{path} can't be used \(it is not a file\)"):
            read(folder, path)


COCO = {"images": [{"id": 0, "file_name": "0.png"}], "annotations": [{"image_id": 0, "bbox": [1, 2, 3, 4]}]}
VOC = "<annotation><filename>0.png</filename></annotation>"
REFUSED = {
    "list beside the folder": ({"../labels.csv": HEADER + ROWS}, r"labels.csv lists images of .*LABEL_FROM"),
    "unknown columns": (
        {"labels.csv": "filename,width,height\n0.png,3,4\n"},
        r"none of its columns \(filename, width, height\) is called \"label\"",
    ),
    "unknown columns, no usual name": ({"x.csv": "a;b\n0.png;x\n1.png;y\n"}, r"none of its columns \(a, b\)"),
    "unknown columns, JSON": ({"x.txt": '[{"file": "0.png", "x": "a"}]'}, r"none of its columns \(file, x\)"),
    "several texts": (
        {"x.csv": "file,text,words\n0.png,a,b\n"},
        r"several columns \(file, text, words\) may",
    ),
    "other images' names": (
        {"x.csv": HEADER + "a.png,1\nb.png,2\nc.png,3\nd.png,4\n"},
        r"no name in its columns filename and label is that of an image: a.png, b.png, c.png\)",
    ),
    "other images' names, no header": (
        {"train.txt": "a.png\t1\nb.png\t2\n"},
        r"is that of an image: a.png, b.png\)",
    ),
    "header alone": ({"labels.csv": HEADER}, "there are none"),
    "names alone": ({"train.txt": "0.png\n1.png\n"}, "it names images, but gives no labels"),
    "texts alone": ({"labels.txt": "TR4254\n00123\n"}, "it names no images"),
    "one label": ({"x.txt": "0.png\t1\n1.png\t1\n2.png\t1\n"}, "all its labels are 1"),
    "line break": ({"x.csv": HEADER + '0.png,"a\n1.png,b"\n'}, "entry 2 has a line break"),
    "line break in JSON": (
        {"x.json": '{"0.png": "a\\nb"}'},
        "the label of entry 1 has a line break or a tab",
    ),
    "third column": ({"x.tsv": "0.png\ta\t0.98\n1.png\tb\t0.97\n"}, "entry 1 has a line break or a tab"),
    "label is no text": ({"x.json": '[{"file": "0.png", "label": ["a", "b"]}]'}, "entry 1 must be texts"),
    "name is no text": ({"x.jsonl": '{"file": null, "label": "a"}'}, "entry 1 must be texts"),
    "unknown encoding under a plain name": (
        {"texts.csv": "filename,label\n0.png,、\n".encode("cp932")},
        r"texts.csv can't be used \(it is neither in UTF-8 nor in cp1252",
    ),
    "broken JSON under a plain name": ({"texts.json": '{"0.png": "a",}'}, "texts.json can't be used"),
    "broken JSON": ({"labels.json": '{"0.png": "a"'}, "labels.json can't be used"),
    "JSON of something else": ({"labels.json": '["0.png", 3]'}, "labels.json can't be used"),
    "not in cp1252": (
        {"labels.csv": HEADER.encode() + b"0.png,\x81\n"},
        r"labels.csv can't be used \(it is neither in UTF-8 nor in cp1252",
    ),
    "no text": ({"labels.csv": b"\0\1\2"}, "it is not text"),
    "no Parquet": ({"labels.parquet": b"PAR1"}, "labels.parquet can't be used"),
    "Excel": ({"labels.xlsx": b"PK"}, "labels.xlsx can't be used"),
    "PPOCRLabel, for detection": (
        {
            "Label.txt": 'x/0.png\t[{"transcription": "A", "points": [[1, 2]]}]\n'
            '1.png\t[]\n2.png\t[{"transcription": "B"}]\n'
        },
        "it contains bounding boxes: crop the lines of text",
    ),
    "docTR, for detection": (
        {"labels.json": '{"0.png": {"img_dimensions": [9, 9], "polygons": [[[0, 0]]]}}'},
        r"none of its columns \(filename, img_dimensions, polygons\)",
    ),
    "Label Studio, several areas": (
        {"x.json": json.dumps([label_studio("0.png", "a"), label_studio("1.png", "b", "c")])},
        "texts",
    ),
    "COCO": ({"x/_annotations.coco.json": json.dumps(COCO)}, "none of its columns"),
    "YOLO": (
        {f"{n}.txt": "0 0.5 0.5 0.25 0.3\n" for n in range(3)},
        r"0.txt can't be used \(it must be one line, the text of the image\)",
    ),
    "Pascal VOC": (
        {f"{n}.xml": VOC for n in range(3)},
        "3 .xml files beside the images may hold their labels",
    ),
    "labelme": ({f"{n}.json": '{"shapes": []}' for n in range(3)}, "3 .json files beside the images"),
    "CVAT": (
        {"annotations.xml": VOC},
        "annotations.xml may hold the labels, but can't be read: save it as CSV",
    ),
    "IAM": (
        {
            "words.txt": "#--- words.txt ---#\n" * 3
            + "".join(f"{n % 3} ok {n} 408 768 27 51 AT A{n}\n" for n in range(20))
        },
        "it contains bounding boxes",
    ),
    "MJSynth": (
        {
            **images("1/115_Lube_45484.png"),
            "annotation_train.txt": "./1/115_Lube_45484.png 45484\n./2/1_x_3.png 3\n" * 5,
        },
        "its labels are word numbers: set LABEL_FROM",
    ),
    "several lines beside an image": ({"0.gt.txt": "a\nb\n"}, "0.gt.txt can't be used"),
}


@pytest.mark.parametrize(("files", "words"), REFUSED.values(), ids=REFUSED)
def test_what_may_hold_labels_but_cannot_be_read_stops(tmp_path, files, words):
    """Nobody takes names for labels then, unless it is said that they are."""
    folder = lay(tmp_path / "set", images(*PLAIN) | files)
    with pytest.raises(DatasetError, match=words) as caught:
        read(folder)
    assert "LABEL_FROM" in str(caught.value) and "\n" not in str(caught.value)
    assert read(folder, "name")[0]["0.png"] == "0"


NAMES = {
    "telephone": ([f"IMG_{n}.JPG" for n in range(2010, 2050)], True),
    "telephone, some deleted": ([f"IMG_20230405_{n * n}.jpg" for n in range(100, 140)], True),
    "times": ([f"20240131_14{n:02}{n * 7 % 60:02}.jpg" for n in range(40)], True),
    "numbers": ([f"{n:05}.png" for n in range(40)], True),
    "words": ([f"word_{n}.png" for n in range(1, 40)], True),
    "the same in several folders": ([f"{n % 3}/plate {n}.png" for n in range(40)], True),
    "digests": ([f"{hashlib.md5(bytes([n])).hexdigest()}.png" for n in range(40)], True),
    "digits that are labels": ([f"{n * n * 7919 % 10000:04}.png" for n in range(40)], False),
    "plates": ([f"AB{n * n * 7919 % 10000:04}.png" for n in range(40)], False),
    "words that are labels": (
        [f"{word}.png" for word in ("image", "crop", "frames", "wordy", "scan", "a1")],
        False,
    ),
}


@pytest.mark.parametrize(("names", "are_counters"), NAMES.values(), ids=NAMES)
def test_names_that_count_are_no_labels(tmp_path, names, are_counters):
    folder = lay(tmp_path / "set", images(*names))
    if not are_counters:
        read(folder)
        return
    with pytest.raises(DatasetError, match=r'look like serial numbers, not labels\. .*"name" or to "folder"'):
        read(folder)
    assert any("look like serial numbers" in line for line in read(folder, "name")[1])


def test_names_that_count_in_one_folder_are_no_labels(tmp_path):
    lay(tmp_path, images(*(f"train/{n * n}a.png" for n in range(200)), *(f"test/{n}.png" for n in range(12))))
    with pytest.raises(DatasetError, match=r"such as 0.png look like serial numbers"):
        read(tmp_path)


def test_labels_with_something_more_are_noted(tmp_path):
    names = ["ab12", "ab12 (1)", "cd34", "cd34 - Copy", "EF 56", "EF 56 - Kopie (2)", "g - 7", "g - 7 copy"]
    folder = lay(tmp_path / "copies", images(*(f"{name}.png" for name in names)))
    labels, said = read(folder)
    assert len(labels) == 8 and "4 labels end like those of copies" in said[1]
    pattern = re.search("LABEL_PATTERN to '(.+)'", said[1])[1]
    assert set(read(folder, None, pattern)[0].values()) == {"ab12", "cd34", "EF 56", "g - 7"}
    folder = lay(tmp_path / "prefix", images("hard_12_spring.png", "hard_7_x.png"))
    assert "All labels begin with 'hard_'" in read(folder)[1][1]


def test_a_list_of_number_plates_is_no_licence(tmp_path):
    files = {"license-plates.csv": HEADER + "0.png,AB 1\n", "LICENSE.txt": "0.png is free"}
    assert read(lay(tmp_path, images("0.png") | files))[0] == {"0.png": "AB 1"}


def test_a_list_by_its_whole_path_is_the_same_as_by_a_relative_one(tmp_path, monkeypatch):
    lay(tmp_path / "set", images("a/0.png", "b/0.png") | {"a/list.csv": HEADER + "0.png,x\n"})
    monkeypatch.chdir(tmp_path)
    assert read(Path("set"), tmp_path / "set" / "a" / "list.csv")[0] == {"a/0.png": "x"}


def test_a_link_to_a_list_stands_where_it_lies(tmp_path):
    files = {"store/list.csv": HEADER + "0.png,x\n"}
    lay(tmp_path, images("a/0.png", "b/0.png") | files)
    (tmp_path / "a" / "list.csv").symlink_to(tmp_path / "store" / "list.csv")
    assert read(tmp_path, tmp_path / "a" / "list.csv")[0] == {"a/0.png": "x"}


def test_the_text_of_another_image_is_not_taken(tmp_path):
    files = images("3.png", "3.50.png", "4.png", "4.bin.png") | {"3.gt.txt": "x", "4.gt.txt": "y"}
    assert read(lay(tmp_path, files))[0] == {"3.png": "x", "4.png": "y", "4.bin.png": "y"}


def test_answers_to_images_that_are_gone_go_to_no_other(tmp_path):
    header = '"filename","label","source","when"\n'
    rows = '"a/0.png","a","sample","1"\n"b/0.png","b","person","1"\n"a/1.png","c","person","1"\n'
    lay(tmp_path, images("b/0.png", "b/1.png") | {"labels.csv": header + rows})
    assert read(tmp_path)[0] == {"b/0.png": "b"}
    moved = lay(tmp_path / "b", {"labels.csv": header + rows.replace("b/0.png", "x/0.png")})
    (tmp_path / "labels.csv").unlink()
    assert read(moved)[0]["1.png"] == "c"


def test_settings_are_no_list(tmp_path):
    files = {"settings.json": '{"size": 3} // of the scanner'}
    assert read(lay(tmp_path, images("k4mz.png", "w2pq.png") | files))[0]["k4mz.png"] == "k4mz"


def test_a_table_that_only_looks_like_answers_is_read_as_any_other(tmp_path):
    rows = [{"file": "0.png", "label": label, "source": "web", "when": "1"} for label in ("a", "b")]
    rows.append({"file": "1.png", "label": None, "source": "person", "when": "1"})
    found = find_labels(lay(tmp_path, images("0.png", "1.png") | {"x.json": json.dumps(rows)}), PATTERN, None)
    assert {(image.name, label) for image, label, _ in found.rows} == {
        ("0.png", "a"),
        ("0.png", "b"),
        ("1.png", ""),
    }


def test_splits_that_leave_nothing_to_train_with_are_said(tmp_path):
    files = {"gt_test.txt": "0.png\ta\n1.png\tb\n"}
    assert "they are ignored" in read(lay(tmp_path, images("0.png", "1.png") | files))[1][1]


def test_answers_that_a_spreadsheet_changed_keep_their_sources(tmp_path):
    rows = "0.png,sample,old,1,\n0.png,sample,new,2,\n1.png,model,b,3,look\n2.png,person,c,4,\n"
    files = {"labels.csv": "filename,source,label,when,note\n" + rows}
    found = find_labels(lay(tmp_path, images("0.png", "1.png", "2.png") | files), PATTERN, None)
    splits = {(image.name, label): split for image, label, split in found.rows}
    assert splits == {("0.png", "new"): "test", ("1.png", "b"): "model", ("2.png", "c"): ""}


def test_notes_tell_what_was_not_as_usual(tmp_path):
    rows = "0.png;é\n1.png;ü\nno.png;x\n"
    files = {
        "labels.csv": f"sep=;\nfilename;label\n{rows}".encode("cp1252"),
        "gt.csv": "a",
        "a.heic": "",
        "b.HEIC": "",
    }
    labels, said = read(lay(tmp_path, images("0.png", "1.png") | files))
    assert labels == {"0.png": "é", "1.png": "ü"}
    assert said[1:] == [
        "labels.csv isn't in UTF-8 and was read as cp1252: check letters with accents; it says in its first "
        "line what separates columns, as Excel's files do.",
        "1 names in lists match no image, or several: no.png.",
        "gt.csv isn't used: it names no images.",
        "Skipped: 2 .heic, 1 .csv (save HEIC and AVIF as JPEG to have them read).",
    ]
    with pytest.raises(DatasetError, match=r"no images in .* \(2 .heic \(save HEIC"):
        find_labels(lay(tmp_path / "x", {"a.heic": "", "b.HEIC": ""}), PATTERN, None)


def test_two_lists_that_disagree_give_both_labels(tmp_path):
    lay(tmp_path, images("0.png") | {"a.csv": HEADER + "0.png,a\n", "b.csv": HEADER + "0.png,b\n0.png,a\n"})
    assert [label for _, label, _ in find_labels(tmp_path, PATTERN, None).rows] == ["a", "b"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_are_followed_that_end_below_the_folder(tmp_path):
    lay(
        tmp_path, images("out.png", "outside/x.png", "set/a.png", "set/.hidden/b.png", "set/__MACOSX/._a.png")
    )
    lay(tmp_path, images("set/.ipynb_checkpoints/a-checkpoint.png", "set/deep/._c.png", "set/deep/c.png"))
    links = {
        "link.png": "a.png",
        "seen": "deep",
        "unseen": ".hidden",
        "up": "..",
        "self": ".",
        "loop.png": "loop.png",
        "out.png": "../out.png",
        "zero.png": "/dev/zero",
        "outside": "../outside",
        "gone.png": "nowhere.png",
    }
    for name, target in links.items():
        (tmp_path / "set" / name).symlink_to(target)
    files, left_out = list_files(tmp_path / "set")
    names = [path.relative_to(tmp_path / "set").as_posix() for path in files]
    assert names == ["a.png", "deep/c.png", "gone.png", "link.png", "loop.png", "unseen/b.png"]
    assert left_out == {"links that lead out of the folder": 4}


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_into_the_cache_of_hugging_face_are_followed(tmp_path):
    hub = tmp_path / "datasets--someone--some-set"
    lay(hub, {"blobs/123": HEADER + "0.png,a\n", "blobs/456": b"", "other/x": b""})
    folder = hub / "snapshots" / "c0ffee" / "train"
    folder.mkdir(parents=True)
    for name, target in (("labels.csv", "blobs/123"), ("0.png", "blobs/456"), ("1.png", "other/x")):
        (folder / name).symlink_to(Path("../../..") / target)
    assert read(folder.parent)[0] == {"train/0.png": "a"}


@pytest.mark.skipif(
    sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may all"
)
def test_folders_that_may_not_be_read_are_counted(tmp_path):
    lay(tmp_path, images("a.png", "x/b.png"))
    (tmp_path / "x").chmod(0)
    try:
        assert list_files(tmp_path)[1] == {"folders without permission to read": 1}
    finally:
        (tmp_path / "x").chmod(0o700)


def test_sheets_are_read_where_there_is_a_package(tmp_path):
    pytest.importorskip("openpyxl")
    rows = pd.DataFrame({"filename": ["0.png", "1.png"], "label": ["00123", "NA"]})
    lay(tmp_path, images("0.png", "1.png"))
    rows.to_excel(tmp_path / "x.xlsx", index=False)
    assert read(tmp_path)[0] == {"0.png": "00123", "1.png": "NA"}


MANY = settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1, max_size=12)
TEXT |= st.text(st.sampled_from("aB1é ,;|\"'#=.-/\\"), min_size=1, max_size=6)
WORDS = st.sampled_from(
    ["filename", "label", "0.png", "1.PNG", "x", ",", ";", "\t", " ", '"', "\n", "\r", "é", "sep=;"]
)
KEYS = st.sampled_from(
    [
        "filename",
        "text",
        "label",
        "0.png",
        "1",
        "data",
        "annotations",
        "result",
        "value",
        "img_path",
        "instances",
        "image",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["0.png", "1.PNG", "a\nb", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def two_images(tmp_path_factory):
    return lay(tmp_path_factory.mktemp("fuzz") / "set", images("0.png", "sub/1.PNG"))


@MANY
@given(
    suffix=st.sampled_from(sorted(READERS)),
    content=st.binary(max_size=200)
    | st.lists(WORDS, max_size=40).map(lambda words: "".join(words).encode())
    | st.lists(WORDS, max_size=40).map(lambda words: "".join(words).encode("utf-16"))
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.lists(JSON, max_size=5).map(lambda values: "\n".join(map(json.dumps, values)).encode()),
)
@example(suffix=".json", content=b"[" * 100_000)
@example(suffix=".csv", content=b'filename,label\n0.png,"' + b"x" * 200_000 + b'"\n')
@example(suffix=".json", content=b'{"0.png": ' + b"9" * 5000 + b"}")
def test_whatever_is_in_a_list_it_is_read_or_a_sentence_says_why_not(two_images, suffix, content):
    path = two_images / f"labels{suffix}"
    path.write_bytes(content)
    try:
        found = find_labels(two_images, PATTERN, None)
    except DatasetError as error:
        assert re.fullmatch(r"[^\r\n]+\.", str(error)) and "LABEL_FROM" in str(error)
    else:
        assert {image for image, _, _ in found.rows} == {two_images / "0.png", two_images / "sub" / "1.PNG"}
        assert not any({"\n", "\r", "\t"} & set(label.strip()) for _, label, _ in found.rows)
        assert all(isinstance(text, str) for pair in found.missing for text in pair)
        assert "\n" not in "".join(found.said) and found.said[0].startswith("Labels come from labels")
    finally:
        path.unlink()


def write_csv(rows, separator=",", **options):
    file = io.StringIO()
    csv.writer(file, delimiter=separator, **options).writerows(rows)
    return file.getvalue()


WRITERS = {
    ".csv": lambda rows: write_csv([("filename", "label"), *rows]).encode(),
    "bom.csv": lambda rows: write_csv([("filename", "label"), *rows], ";").encode("utf-8-sig"),
    "excel.csv": lambda rows: b"sep=;\r\n" + write_csv([("image", "text"), *rows], ";").encode(),
    "quoted.csv": lambda rows: write_csv(
        [("x", "text", "path"), *((1, t, n) for n, t in rows)], quoting=1
    ).encode(),
    ".txt": lambda rows: write_csv(rows).encode(),
    ".tsv": lambda rows: "".join(
        f"{name}\t{text}\n" for name, text in [("filename", "label"), *rows]
    ).encode(),
    "wide.txt": lambda rows: "".join(f"{name}\t{text}\r\n" for name, text in rows).encode("utf-16"),
    "easyocr.csv": lambda rows: "".join(
        f"{name},{text}\n" for name, text in [("filename", "words"), *rows]
    ).encode(),
    ".json": lambda rows: json.dumps(dict(rows)).encode(),
    "list.json": lambda rows: json.dumps([{"file": name, "gt": text} for name, text in rows]).encode(),
    ".jsonl": lambda rows: "\n".join(json.dumps({"file": name, "gt": text}) for name, text in rows).encode(),
    ".parquet": lambda rows: pd.DataFrame(rows, columns=["file_name", "text"]).to_parquet(),
}


@pytest.mark.parametrize("writer", WRITERS)
@MANY
@given(texts=st.lists(TEXT.map(str.strip).filter(bool), min_size=3, max_size=3, unique=True))
def test_texts_come_back_as_they_were_written(tmp_path_factory, writer, texts):
    assume(not (writer == "easyocr.csv" and '"' in "".join(texts)))  # which looks like a quoted text
    folder = tmp_path_factory.getbasetemp() / "round"
    shutil.rmtree(folder, ignore_errors=True)
    names = ["0.png", "sub/1.png", "2.png"]
    rows = list(zip(names, texts, strict=True))
    lay(folder, images(*names) | {f"labels{writer}": WRITERS[writer](rows)})
    assert read(folder)[0] == dict(rows)


@MANY
@given(
    name=st.text(max_size=30)
    | st.lists(st.sampled_from(["..", "a", "0.png", "/", "\\", "C:", "\0", "?d=", "%2e"])).map("".join)
)
def test_a_name_leads_to_an_image_of_the_folder_or_nowhere(name):
    folder = Path("/set/a")
    listed = [folder / "0.png", folder / "a" / "0.png", folder / "a" / "b.png"]
    for place in (folder, folder / "a", Path("/elsewhere")):
        assert Names(folder, listed).find(name, place)[0] in (None, *listed)

"""training/fetching.py, against a stub of Kaggle and of Hugging Face on this machine."""

import builtins
import errno
import hashlib
import io
import json
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
import types
import warnings
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kagglesdk import kaggle_env
from PIL import Image
from runs import ROOT

from training.errors import DatasetError, DatasetUnreachable
from training.fetching import (
    DEFAULT_DATASET,
    MAX_BYTES,
    MAX_MEMBERS,
    REACH_SECONDS,
    check_members,
    download,
    fetch,
    fill_once,
)
from training.labels import find_labels
from training.parquet import unpack_parquet

KAGGLE, HUB, COMMIT = "kaggle:someone/some-set", "hf:someone/some-set", "c" * 40
LABELS = ["2b827", "c2fg4", "xxyyz"]


def png(label: str) -> bytes:
    file = io.BytesIO()
    color = tuple(hashlib.sha256(label.encode()).digest()[:3])
    Image.new("RGB", (20, 5), color).save(file, "PNG")
    return file.getvalue()


def images() -> dict[str, bytes]:
    """Every image twice, as in Kaggle's archive of the mission's set."""
    folders = "samples/", "samples/samples/"
    return {f"{folder}{label}.png": png(label) for folder in folders for label in LABELS}


def zipped(files: dict, method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of names (or ZipInfos) and their contents."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a name that is there twice
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def member(name: str, kind: int = stat.S_IFREG) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o644) << 16
    return info


class Site(BaseHTTPRequestHandler):
    """Answers as Kaggle's API, as Kaggle's storage and as Hugging Face, the way `server` says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, repository = self.path.split("?")[0], "/api/datasets/someone/some-set/"
        files = self.server.files
        if path == "/storage/archive":
            self.reply(self.server.archive, {"Accept-Ranges": "bytes", "ETag": '"1"'})
        elif self.server.status != 200 and path != "/":
            self.reply(b"{}", status=self.server.status)
        elif path == f"{repository}revision/main":
            self.reply({"id": "someone/some-set", "sha": COMMIT})
        elif path == f"{repository}tree/{COMMIT}":
            about = {name: (len(files[name]), hashlib.sha1(files[name]).hexdigest()) for name in files}
            tree = [
                {"type": "file", "path": n, "size": self.server.claimed or s, "oid": o}
                for n, (s, o) in about.items()
            ]
            self.reply(tree)
        elif path.startswith(f"/datasets/someone/some-set/resolve/{COMMIT}/"):
            content = files[path.split(f"{COMMIT}/")[1]]
            self.server.resolved.append(path)
            name = hashlib.sha1(content).hexdigest()
            self.reply(content, {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})
        else:
            self.reply(b"", status=404)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body, self.headers.get("Authorization")))
        token = self.headers.get("Authorization") or "Bearer right"
        if self.path.endswith("/IntrospectToken"):
            self.reply({"active": body["token"] == "right", "username": "someone"})
        elif self.path != "/v1/datasets.DatasetApiService/DownloadDataset":
            self.reply(b"", status=404)
        elif self.server.hangs:
            self.server.closing.wait(30)
        elif self.server.status != 200 or token != "Bearer right":
            status = self.server.status if self.server.status != 200 else 401
            self.reply({"code": status, "message": "refused"}, status=status)
        else:
            self.reply(b"", {"Location": "/storage/archive"}, 302)

    def reply(self, content, headers=None, status=200):
        headers = dict(headers or {})
        if not isinstance(content, bytes):
            content, headers["Content-Type"] = json.dumps(content).encode(), "application/json"
        if (asked := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) and status == 200:
            start, total, status = int(asked[1]), len(content), 206
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
            content = content[start:]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(content)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.server.cuts and self.path == "/storage/archive":
            self.server.cuts -= 1
            content, self.close_connection = content[: int(len(content) * self.server.share)], True
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def site(monkeypatch, tmp_path):
    """The stub, which both packages are led to; no host but this one is named anywhere."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.archive, server.files, server.status = zipped(images()), images(), 200
    server.seen, server.cuts, server.hangs, server.closing = [], 0, False, threading.Event()
    server.resolved, server.claimed = [], None  # files that were asked for; how large each says it is
    server.share = 0.5  # of what is asked for, until a download is cut
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    lead_to(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "")  # not delenv: what a test sets here goes away as well
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the packages' own tries
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


def lead_to(url: str, monkeypatch) -> None:
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, url)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def bring(dataset: str, folder: Path) -> Path:
    return fetch(dataset, folder, seed=7)[0]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("in_jupyter", [False, True])
def test_kaggle_without_token(site, tmp_path, monkeypatch, capsys, in_jupyter):
    if in_jupyter:
        monkeypatch.delattr(builtins, "exit")  # as IPython does while a cell runs
    folder = bring(KAGGLE, tmp_path / "data")
    assert contents(folder) == images()
    _path, body, authorization = site.seen[-1]
    assert (body["ownerSlug"], body["datasetSlug"], authorization) == ("someone", "some-set", None)
    assert capsys.readouterr().out == ""


def test_a_data_set_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    archive = tmp_path / "mine.zip"
    archive.write_bytes(zipped(images()))
    error = PermissionError(13, "Permission denied", str(archive))
    monkeypatch.setattr("training.fetching.hash_files", lambda *_: (_ for _ in ()).throw(error))
    fails(str(archive), tmp_path / "data", r"mine\.zip can't be read \(Permission denied\)")


@pytest.mark.parametrize("source", [KAGGLE, HUB])
def test_second_call_needs_no_network(site, tmp_path, monkeypatch, source):
    folder = bring(source, tmp_path)
    lead_to("http://127.0.0.1:9", monkeypatch)
    assert bring(source, tmp_path) == folder
    assert contents(folder) == images()


@pytest.mark.parametrize("holder", ["environment", "colab"])
def test_kaggle_with_token(site, tmp_path, monkeypatch, holder):
    if holder == "environment":
        monkeypatch.setenv("KAGGLE_API_TOKEN", "right")
    else:
        colab = types.ModuleType("google.colab")
        colab.userdata = types.SimpleNamespace(get={"KAGGLE_API_TOKEN": "right"}.__getitem__)
        monkeypatch.setitem(sys.modules, "google.colab", colab)
    bring(KAGGLE, tmp_path)
    assert site.seen[-1][2] == "Bearer right"


def test_colab_without_the_secret(site, tmp_path, monkeypatch):
    colab = types.ModuleType("google.colab")
    colab.userdata = types.SimpleNamespace(get={}.__getitem__)  # raises, as Colab's does
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    bring(KAGGLE, tmp_path)
    assert site.seen[-1][2] is None


def test_kaggle_with_wrong_token(site, tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "wrong")
    with pytest.raises(DatasetError, match="KAGGLE_API_TOKEN"):
        bring(KAGGLE, tmp_path)


def fails(source: str, folder: Path, match: str, unreachable: bool = False) -> None:
    """Expects one clear sentence, and nothing left on the disk."""
    with pytest.raises(DatasetError, match=match) as caught:
        fetch(source, folder, seed=7)
    assert isinstance(caught.value, DatasetUnreachable) == unreachable
    assert "\n" not in str(caught.value)
    assert not list(folder.rglob("*"))


@pytest.mark.parametrize("source", [KAGGLE, HUB])
@pytest.mark.parametrize(
    ("status", "match"), [(401, "token"), (403, "terms"), (404, "no such"), (503, "answers 503")]
)
def test_refused(site, tmp_path, source, status, match):
    site.status = status
    fails(source, tmp_path / "data", match, unreachable=status == 503)
    site.status = 200
    assert contents(bring(source, tmp_path / "data")) == images()


@pytest.mark.parametrize("source", [KAGGLE, HUB])
def test_no_network(site, tmp_path, monkeypatch, source):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    lead_to(f"http://127.0.0.1:{port}", monkeypatch)
    fails(source, tmp_path / "data", "no connection", unreachable=True)


@pytest.mark.parametrize("source", [KAGGLE, HUB])
def test_site_that_never_answers(site, tmp_path, monkeypatch, source):
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        lead_to(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        with pytest.raises(DatasetUnreachable, match="no connection"):
            download(source, tmp_path, reach_seconds=0.2)
    assert time.monotonic() - began < REACH_SECONDS  # each of its tries would take that long


def test_name_that_never_resolves(site, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: site.closing.wait(30))
    with pytest.raises(DatasetUnreachable, match="no connection"):
        download(KAGGLE, tmp_path, reach_seconds=0.2)


def test_download_that_never_begins(site, tmp_path):
    site.hangs = True
    with pytest.raises(DatasetUnreachable, match="no connection"):
        download(KAGGLE, tmp_path, stall_seconds=0.3)


def test_download_cut_off(site, tmp_path):
    site.cuts = 99
    fails(KAGGLE, tmp_path / "data", "broke off", unreachable=True)
    site.cuts = 1  # and then goes on where it was
    assert contents(bring(KAGGLE, tmp_path / "data")) == images()


def test_download_cut_off_at_twenty_random_places(site, tmp_path):
    for site.share in np.random.default_rng(0).random(20):
        site.cuts = 99
        fails(KAGGLE, tmp_path / "data", "broke off", unreachable=True)
    site.cuts = 0
    assert contents(bring(KAGGLE, tmp_path / "data")) == images()


def test_disk_full(site, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    fails(KAGGLE, tmp_path / "data", "No space left")


GOOD = zipped(images())
FIRST = GOOD.index(png(LABELS[0]))  # the first member's bytes, which are stored as they are
ENCRYPTED = bytearray(GOOD)
ENCRYPTED[GOOD.index(b"PK\1\2") + 8] |= 1
LYING = bytearray(zipped({"zeros.png": bytes(5000)}, zipfile.ZIP_DEFLATED))
SIZE = LYING.index(b"PK\1\2") + 24  # where the table of contents says how large a member is
LYING[SIZE : SIZE + 4] = (10).to_bytes(4, "little")
DAMAGED = bytearray(zipped({"zeros.png": bytes(5000)}, zipfile.ZIP_DEFLATED))
DAMAGED[39:45] = b"\xff" * 6  # the deflated bytes begin there: 30 and the name's 9
ENDLESS = bytearray(zipped({"x.png": b"x"}))
SIZES = ENDLESS.index(b"PK\1\2") + 20
ENDLESS[SIZES : SIZES + 8] = 2 * (5000).to_bytes(4, "little")
HUGE = bytearray(zipped({"x.png": b"x", "y.png": b"y"}))
for match in re.finditer(b"PK\1\2", bytes(HUGE)):
    HUGE[match.start() + 24 : match.start() + 28] = (0xFFFFFFFE).to_bytes(4, "little")
ARCHIVES = {
    "wrong CRC": (GOOD[: FIRST + 20] + b"??" + GOOD[FIRST + 22 :], "broken"),
    "no zip": (b"<html>Please log in</html>", "broken"),
    "empty": (b"", "broken"),
    "truncated": (GOOD[: len(GOOD) // 2], "broken"),
    "file and folder": (zipped({"x": b"1", "x/y.png": b"2"}), "broken"),
    "no name": (zipped({"..": b"1"}), "broken"),
    "encrypted": (bytes(ENCRYPTED), "encrypted"),
    "packed by LZMA": (zipped(images(), zipfile.ZIP_LZMA), "unsupported compression"),
    "too large": (bytes(HUGE), "2 files of 8,589,934,588 bytes exceed the limit"),
    "lying": (bytes(LYING), "broken"),
    "damaged": (bytes(DAMAGED), "broken"),
    "endless": (bytes(ENDLESS), "broken"),
}


@pytest.mark.parametrize("source", ["kaggle", "hub", "path"])
@pytest.mark.parametrize(("archive", "match"), ARCHIVES.values(), ids=ARCHIVES)
def test_bad_archive(site, tmp_path, source, archive, match):
    path = tmp_path / "images.zip"
    path.write_bytes(archive)
    site.archive, site.files = archive, {"images.zip": archive}
    source = {"kaggle": KAGGLE, "hub": HUB, "path": str(path)}[source]
    fails(source, tmp_path / "data", match)
    path.write_bytes(GOOD)
    site.archive, site.files = GOOD, images()
    assert contents(bring(source, tmp_path / "data")) == images()
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.is_file()) == ["images.zip"]


def test_an_archive_may_not_have_too_many_files():
    check_members([zipfile.ZipInfo("x.png")] * MAX_MEMBERS)
    with pytest.raises(ValueError, match="200,001 files of 0 bytes exceed the limit"):
        check_members([zipfile.ZipInfo("x.png")] * (MAX_MEMBERS + 1))


def test_whatever_names_say_plain_files_below_the_folder_are_written(tmp_path):
    names = ["../a.png", "/b.png", "C:c.png", "..\\d.png", "x/../../../e.png", "./f.png", "f.png"]
    members = [member("link.png", stat.S_IFLNK), member("device.png", stat.S_IFCHR), member("f.png")]
    path = tmp_path / "odd.zip"
    path.write_bytes(zipped(dict.fromkeys([*names, *members], b"/etc/passwd")))
    folder = bring(str(path), tmp_path / "data")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data", "odd.zip"]
    assert list((tmp_path / "data").iterdir()) == [folder]
    assert not [entry for entry in folder.rglob("*") if entry.is_symlink()]
    found = contents(folder)
    assert set(found.values()) == {b"/etc/passwd"} and len(found) == 8
    assert {"a.png", "b.png", "x/e.png", "f.png", "link.png", "device.png"} < set(found)


def test_hub(site, tmp_path):
    labels = b"filename,label\n"
    site.files = {"labels.csv": labels, "train/a.ZIP": zipped(images())}
    found = contents(bring(HUB, tmp_path))
    assert found == {"labels.csv": labels} | {f"train/a/{k}": v for k, v in images().items()}


FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["zero", "one"], "_type": "ClassLabel"}}


def parquet(**columns) -> bytes:
    """A Parquet file as the package `datasets` writes it."""
    table = pa.table(columns)
    about = json.dumps({"info": {"features": {name: FEATURES.get(name, {}) for name in columns}}})
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"huggingface": about}), file)
    return file.getvalue()


def packed(*labels: str) -> list[dict]:
    return [{"bytes": png(label), "path": f"{label}.png" if label > "d" else None} for label in labels]


def labels_in(folder: Path) -> dict[str, tuple[str, str]]:
    """Labels and splits of the images in a folder, by what the images show."""
    names = {png(label): label for label in LABELS}
    rows = find_labels(folder, "(.+)", None).rows
    return {names[image.read_bytes()]: (label, split) for image, label, split in rows}


def test_parquet_files_of_the_hub(site, tmp_path):
    site.files = {
        "README.md": b"---",
        "data/train-00000-of-00001.parquet": parquet(image=packed(*LABELS[:2]), text=["a", "é\n"]),
        "data/test-00000-of-00001.parquet": parquet(image=packed(LABELS[2]), text=["c"], more=[[1.5]]),
    }
    folder = bring(HUB, tmp_path)
    assert labels_in(folder) == {
        LABELS[0]: ("a", "train"),
        LABELS[1]: ("é\n", "train"),
        LABELS[2]: ("c", "test"),
    }
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".png", ".jsonl"}


def test_parquet_files_in_a_folder_and_a_zip(tmp_path, capsys):
    files = {
        "train.parquet": parquet(image=[image["bytes"] for image in packed(*LABELS)], label=[1, 0, -1]),
        "metadata.parquet": parquet(file_name=["x.png"], text=["no"]),
    }
    for name, content in files.items():
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(content)
    folder, name = fetch(str(tmp_path / "mine"), tmp_path / "data", 7)
    expected = {LABELS[0]: ("one", "train"), LABELS[1]: ("zero", "train"), LABELS[2]: ("", "train")}
    assert name == "mine" and labels_in(folder) == expected
    assert contents(tmp_path / "mine") == files
    (folder / "mark").touch()
    assert bring(str(tmp_path / "mine"), tmp_path / "data") == folder and (folder / "mark").exists()
    (tmp_path / "mine.zip").write_bytes(zipped(files))
    assert labels_in(bring(str(tmp_path / "mine.zip"), tmp_path / "data")) == expected
    (tmp_path / "mine" / "train.parquet").rename(tmp_path / "mine" / "test.parquet")
    (tmp_path / "mine" / "x.png").write_bytes(b"x")
    assert labels_in(bring(str(tmp_path / "mine"), tmp_path / "data"))[LABELS[0]] == ("one", "test")
    assert "Other image files: 1." in capsys.readouterr().out
    (tmp_path / "mine" / "test.parquet").unlink()
    assert bring(str(tmp_path / "mine"), tmp_path / "data") == tmp_path / "mine"


PARQUETS = {
    "broken": (b"PAR1" + bytes(99) + b"PAR1", r"x.parquet can't be read as images and texts"),
    "no texts": (parquet(image=packed("a"), width=[3]), r"none of its columns \(width\) is called"),
    "several texts": (
        parquet(image=packed("a"), text=["a"], words=["b"]),
        "several columns .* may hold the text",
    ),
}


@pytest.mark.parametrize(("content", "match"), PARQUETS.values(), ids=PARQUETS)
def test_parquet_files_that_can_not_be_read(tmp_path, content, match):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.parquet").write_bytes(content)
    fails(str(tmp_path / "mine"), tmp_path / "data", match)


def test_parquet_files_may_not_hold_too_much(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(parquet(image=packed(*LABELS), text=LABELS))
    for limits in ((2, MAX_BYTES), (MAX_MEMBERS, 100)):
        with pytest.raises(DatasetError, match="exceed the limit"):
            unpack_parquet(path, tmp_path / str(limits), *limits)


REFUSED = {
    "other files": (
        {"a.tar": b"1", "b.tar.gz": b"2", "c.py": b"3", "labels.csv": b"4"},
        r"only .csv, .gz, .py, .tar",
    ),
    "no images in Parquet": ({"x.parquet": parquet(text=["a"], n=[1])}, "no images: its columns are text, n"),
    "no texts in Parquet": ({"x.parquet": parquet(image=packed("a"), n=[1])}, r"none of its columns \(n\)"),
}


@pytest.mark.parametrize(("files", "match"), REFUSED.values(), ids=REFUSED)
def test_hub_refuses_what_can_not_be_read(site, tmp_path, files, match):
    """Before anything is downloaded, but the end of a Parquet file."""
    site.files = files
    fails(HUB, tmp_path / "data", match)
    assert not [path for path in site.resolved if not path.endswith(".parquet")]
    assert len(site.resolved) <= 1


def test_hub_refuses_what_is_too_large(site, tmp_path):
    site.files, site.claimed = images(), MAX_BYTES
    fails(HUB, tmp_path / "data", "hf:someone/some-set is too large: 25,769,803,776 bytes")
    assert not site.resolved


def test_hub_downloads_only_what_can_be_read(site, tmp_path):
    site.files = images() | {"x.tar": b"1", "README.md": b"2", "labels.csv": b"3"}
    assert contents(bring(HUB, tmp_path)) == images() | {"labels.csv": b"3"}


def test_hub_refuses_the_name(site, tmp_path):
    fails("hf:some--one/set-", tmp_path / "data", "no such data set")


def test_local_zip_is_unpacked_once_for_each_content(tmp_path):
    path = tmp_path / "mine.zip"
    path.write_bytes(zipped(images()))
    first = bring(str(path), tmp_path / "data")
    assert contents(first) == images()
    (first / "mark").touch()
    assert (bring(str(path), tmp_path / "data") / "mark").exists()
    path.write_bytes(zipped({"new.png": b"new"}))
    assert contents(bring(str(path), tmp_path / "data")) == {"new.png": b"new"}


@pytest.mark.parametrize(("name", "encoding"), [("é漢.png", "utf-8"), ("é.png", "cp437")])
def test_names_in_a_zip_need_not_tell_their_encoding(tmp_path, name, encoding):
    path, encoded = tmp_path / "mine.zip", name.encode(encoding)
    path.write_bytes(zipped({"x" * len(encoded): b"image"}).replace(b"x" * len(encoded), encoded))
    assert contents(bring(str(path), tmp_path / "data")) == {name: b"image"}


def test_backslashes_in_a_zip_are_folders(tmp_path):
    path = tmp_path / "mine.zip"
    for system, name in [(0, "mine/a.png"), (3, "mine\\a.png")]:  # PowerShell 5; elsewhere they are letters
        member = zipfile.ZipInfo()
        member.filename = member.orig_filename = "mine\\a.png"
        member.create_system = system
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, b"image")
        assert contents(bring(str(path), tmp_path / "data")) == {name: b"image"}


def test_folder_is_taken_as_it_is(tmp_path):
    assert fetch(f"{tmp_path}/", tmp_path / "data", 7) == (tmp_path, tmp_path.name)
    assert not (tmp_path / "data").exists()


def test_names_tell_what_was_used(site, tmp_path):
    (tmp_path / "mine.zip").write_bytes(GOOD)
    sources = [KAGGLE, HUB, "synthetic:1", f"{tmp_path}/mine.zip"]
    assert [fetch(source, tmp_path / "data", 7)[1] for source in sources] == [*sources[:3], "mine.zip"]


def test_synthetic_images_are_drawn_once(tmp_path):
    folder = bring("synthetic:3", tmp_path)
    assert len(list(folder.glob("?????.png"))) == 3
    (folder / "mark").touch()
    assert bring("synthetic:3", tmp_path) == folder and (folder / "mark").exists()
    assert fetch("synthetic:3", tmp_path, seed=8)[0] != folder
    assert len(list(tmp_path.iterdir())) == 2


def test_synthetic_images_stand_in_for_the_default_data_set(site, tmp_path, capsys):
    (tmp_path / "synthetic-1070-7").mkdir()  # or they would be drawn now
    site.status = 503
    assert fetch(DEFAULT_DATASET, tmp_path, 7) == (tmp_path / "synthetic-1070-7", "synthetic")
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "answers 503" in said and "Going on with synthetic" in said


def test_two_processes_fetch_into_one_folder(tmp_path):
    command = [sys.executable, "-c", FETCH, str(tmp_path)]
    fetches = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(3)]
    said = {process.communicate(timeout=60)[0] for process in fetches}
    assert said == {f"{tmp_path / 'set'}\n".encode()} and not any(process.returncode for process in fetches)
    assert contents(tmp_path) == {"set/a": b"a", "set/b": b"b"}


FETCH = """
import sys, time
from pathlib import Path
from training.fetching import fill_once

def fill(folder):
    (folder / "a").write_text("a")
    time.sleep(1)  # until the others have begun
    (folder / "b").write_text("b")

target = Path(sys.argv[1], "set")
fill_once(target.parent, target, fill)
print(target)
"""


def test_what_a_killed_process_left_is_deleted(tmp_path):
    """What a living one is about to bring is not."""
    killed, living = (
        subprocess.Popen(
            [sys.executable, "-c", ENDLESS_FETCH, str(tmp_path), name], cwd=ROOT, stdout=subprocess.PIPE
        )
        for name in ("killed", "living")
    )
    try:
        assert killed.stdout.readline() == living.stdout.readline() == b"half\n"
        killed.kill()
        killed.wait()
        assert len(list(tmp_path.rglob("half"))) == 2
        fill_once(tmp_path, tmp_path / "set", lambda folder: (folder / "whole").touch())
        assert [path.read_text() for path in tmp_path.rglob("half")] == ["living"]
        assert contents(tmp_path / "set") == {"whole": b""}
    finally:
        for process in (killed, living):
            process.kill()
            process.communicate()


ENDLESS_FETCH = (
    FETCH.partition("def")[0]
    + """
def fill(folder):
    (folder / "half").write_text(sys.argv[2])
    print("half", flush=True)
    time.sleep(60)

fill_once(Path(sys.argv[1]), Path(sys.argv[1], sys.argv[2]), fill)
"""
)


def test_another_process_may_be_faster(tmp_path):
    target = tmp_path / "data" / "set"

    def fill(folder):
        (folder / "mine").touch()
        target.mkdir()
        (target / "theirs").touch()

    fill_once(tmp_path / "data", target, fill)
    assert contents(tmp_path) == {"data/set/theirs": b""}


NAMES = [
    "",
    "nowhere/at/all",
    "kaggle:x",
    "hf:../..",
    "kaggle:a/b/../c",
    "synthetic:0",
    "synthetic:x",
    "~x/y",
]


@pytest.mark.parametrize("source", NAMES)
def test_no_such_source(tmp_path, source):
    fails(source, tmp_path / "data", "There is no data set")


def test_a_wrong_name_ends_at_once(tmp_path):
    """Before anything is imported that takes long."""
    command = [sys.executable, "-W", "error", "-c", WRONG_NAME]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said == "There is no data set 'nowhere'\nset()\n"


WRONG_NAME = """
import sys
from pathlib import Path
from training.errors import DatasetError
from training.fetching import fetch
try:
    fetch("nowhere", Path("data"), 7)
except DatasetError as error:
    print(str(error).partition(":")[0])
print({"tensorflow", "pandas", "matplotlib", "kaggle", "huggingface_hub", "requests"} & set(sys.modules))
"""

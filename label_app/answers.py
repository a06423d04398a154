"""Where answers are kept: `labels.csv` in the folder of images."""

import contextlib
import csv
import io
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from training.lists import ANSWERS, cut_rows, read_list

HEADER = b'"filename","label","source","when"\n'


class LabellingError(Exception):
    """Something that can't be done; the message says why and what to do."""


class Label(NamedTuple):
    """What an image is said to show."""

    text: str  # "" where nobody can read it, or it is not to be used
    source: str  # "sample" or "person", who typed or accepted it; "model"; "given" before all that


class LabelFile:
    """`labels.csv` in a folder: a row for each answer, of which an image's last one counts.

    Raises:
        LabellingError: If another process labels the folder, or nobody may write there.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.is_changed, self.stamp = folder / "labels.csv", False, None
        self.lock = FileLock(folder / ".labels.lock", thread_local=False)
        try:
            self.lock.acquire(timeout=0)
            if self.path.exists():
                self.path.open("r+b").close()
        except Timeout as error:
            raise LabellingError(
                f"{folder} is being labelled by another process. Use its page, or stop it first."
            ) from error
        except OSError as error:
            raise LabellingError(
                f"The labels can't be written to {folder} ({error.strerror}). Copy it to a "
                "folder where you may write."
            ) from error

    def load(self) -> dict[str, Label] | None:
        """Read the answers, by the names of images; None if the file is missing or somebody else's.

        Raises:
            LabellingError: If it can't be read.
        """
        if not self.path.exists():
            return None
        self.stamp = _stamp(self.path)
        is_usual = ANSWERS.match(self.path.read_bytes())
        try:
            found = read_list(self.path, lambda _: True)
        except ValueError as error:
            if not is_usual:
                return None
            raise LabellingError(f"{self.path} can't be read ({error}). Save it as CSV in UTF-8.") from error
        if not (is_usual or found.sources):
            return None
        if found.note:
            print(f"{self.path} {found.note}.")
        self.is_changed = not is_usual or "UTF-8" in found.note  # as a spreadsheet saves it
        return {name: Label(text, found.sources[name]) for name, text in found.pairs}

    def append(self, new: dict[str, Label], known: dict[str, Label]) -> None:
        """Put answers on the disk.

        All known ones come along if the file is missing, somebody else's, or changed by a spreadsheet.

        Raises:
            LabellingError: If they can't be written.
        """
        try:
            exists = self.path.exists()
            if exists and _stamp(self.path) != self.stamp:  # a spreadsheet saved it in the meantime
                known = known | (self.load() or {})
            with self.path.open("r+b") if exists else contextlib.nullcontext(io.BytesIO()) as file:
                header = ANSWERS.match(file.read(100)) if not self.is_changed else None
                if header:
                    start = max(0, file.seek(0, os.SEEK_END) - 10_000)
                    file.seek(start)
                    content, separator = file.read(), header[1].decode()
                    whole = cut_rows(content, separator)
                    end = start + min(len(content), len(whole))
                    _write(file, end, whole[len(content) :] + _rows(new, separator))
            if not header:
                unfinished = self.path.with_name(".labels.csv")
                with unfinished.open("wb") as file:
                    _write(file, 0, HEADER + _rows(known | new, ","))
                if exists:
                    kind = "old" if self.is_changed else "csv"  # old answers are no list beside the new ones
                    before = f"labels_before_{time.strftime('%Y%m%d-%H%M%S')}.{kind}"
                    shutil.copyfile(self.path, self.path.with_name(before))
                unfinished.replace(self.path)
                self.is_changed = False
            self.stamp = _stamp(self.path)
        except OSError as error:
            raise LabellingError(
                f"Your answer was not saved: {self.path} can't be written ({error.strerror}). Correct this "
                "and answer again."
            ) from error


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _rows(labels: dict[str, Label], separator: str) -> bytes:
    text, when = io.StringIO(), datetime.now(UTC).isoformat(timespec="seconds")
    rows = csv.writer(text, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator="\n")
    rows.writerows((name, *label, when) for name, label in labels.items())
    return text.getvalue().encode(errors="replace")


def _write(file: io.BufferedRandom | io.BufferedWriter, place: int, content: bytes) -> None:
    file.seek(place)
    file.truncate()
    file.write(content)
    file.flush()
    os.fsync(file.fileno())

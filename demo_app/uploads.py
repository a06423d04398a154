"""What visitors upload: where it lies, single image files out of it, and the table that they download."""

import base64
import contextlib
import csv
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from folders import open_path
from images import ImageError
from ocr import COLUMNS

MAX_FILES = 10_000
MAX_SECONDS = 300
MAX_STORED_BYTES = 2_000_000_000  # of all uploads on the disk
ENTRY_BYTES = 10_000  # that a file may take on the disk beside its content
KEEP_SECONDS = 3500  # that an upload stays at least: within an hour, it is deleted
NO_ADDRESSES = "This app does not open URLs. Upload the image itself."
DELETED = "Uploads are deleted after an hour. Upload it again."
NO_IMAGE = "There is no image yet. Upload or paste one, or click on an example."


class Store:
    """The folder of uploads and tables, which is bounded in age and in bytes.

    Args:
        folder: That holds nothing else.
        max_bytes: Of all files. Half of the disk's room is a bound, too.

    Attributes:
        kept: Files that are never deleted.
        bytes: Of all files, as far as is known.
        room: What `bytes` may be.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_STORED_BYTES) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.kept: set[str] = set()
        self.clean()

    def clean(self, seconds: float = KEEP_SECONDS) -> None:
        """Delete what was not changed for some seconds and, if the rest has no room, the oldest of it."""
        if not self.folder.is_dir():  # somebody deleted it
            return
        files = []
        for place, _, names in os.walk(self.folder):
            for path in (os.path.join(place, name) for name in names):  # noqa: PTH118, pathlib is slow
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(path)  # noqa: PTH116
                    files.append((status.st_mtime, status.st_size + ENTRY_BYTES, path))
        self.bytes = sum(size for _, size, _ in files)
        self.room = min(self.max_bytes, (self.bytes + shutil.disk_usage(self.folder).free) // 2)
        # A little more than has to be, or the next upload would look at all files again.
        wanted = self.room - self.room // 8 if self.bytes > self.room else self.room
        end = time.time() - seconds
        for changed, size, path in sorted(files):
            if changed >= end and self.bytes <= wanted:
                break
            if path not in self.kept:
                with contextlib.suppress(OSError):  # it is gone, or in use; its folder has more files
                    Path(path).unlink()
                    self.bytes -= size
                    if (place := Path(path).parent) != self.folder:
                        place.rmdir()


def own_path(path: str, folder: Path) -> str:
    """Return the path of an upload; gradio does not check files that claim another type.

    Raises:
        ImageError: If it does not lie in the folder of uploads.
    """
    if not Path(path).resolve().is_relative_to(folder):
        raise ImageError("This file was not uploaded here. Upload the image itself.")
    return path


def open_upload(upload: dict | None, folder: Path) -> str | bytes:
    """Give the path of an uploaded image, or the bytes of one that came in a data URL.

    Args:
        upload: What gradio passes on: "path" or "url".
        folder: Of uploads.

    Raises:
        ImageError: If there is none, or it may not be opened.
    """
    if upload is None or not (upload["path"] or upload["url"]):
        raise ImageError(NO_IMAGE)
    if upload["path"]:
        if not Path(own_path(upload["path"], folder)).exists():
            raise ImageError(DELETED)
        return upload["path"]
    start, _, data = upload["url"].partition("base64,")
    if not start.startswith("data:"):
        raise ImageError(NO_ADDRESSES)
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise ImageError(f"The image's base64 is damaged ({error}). Encode it again.") from error


def open_files(
    paths: Iterable[str], max_files: int = MAX_FILES, seconds: float = MAX_SECONDS
) -> Iterator[tuple[str, str | bytes | ImageError]]:
    """Give the name and the source of each image, those in zip archives as bytes; or why there is none.

    What comes after `max_files` images or after some seconds is one error.
    """
    end = time.monotonic() + seconds
    for position, (name, source) in enumerate(_open_all(paths)):
        if position == max_files or time.monotonic() > end:
            yield (
                name,
                ImageError(
                    f"Reading stopped at the limit of {max_files:,} images or {seconds / 60:.0f} minutes. "
                    "Upload this file and those after it separately."
                ),
            )
            return
        yield name, source


def _open_all(paths: Iterable[str]) -> Iterator[tuple[str, str | bytes | ImageError]]:
    for path in map(Path, paths):
        if os.path.exists(path):  # noqa: PTH110, pathlib's raises for too long names
            yield from open_path(path, path.name)
        else:
            yield path.name, ImageError(DELETED)


def write_table(rows: list[list[str]], folder: Path) -> str:
    """Write readings, rows of `COLUMNS`, as a new CSV file in a folder; return its path."""
    options = {"newline": "", "encoding": "utf-8-sig", "prefix": "readings_", "suffix": ".csv"}
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, **options) as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(
            [COLUMNS, *([disarm(cell) for cell in row] for row in rows)]
        )
    return file.name


def disarm(cell: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula, but not before plain numbers."""
    return f"'{cell}" if re.match(r"[=@\t\r\n]|[+-](?![\d.,]*\Z)", cell) else cell

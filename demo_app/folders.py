"""What lies in a folder or a zip archive of images."""

import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from images import SUFFIXES, ImageError

MAX_FILE_BYTES = 20_000_000  # of a file in an archive, and of an upload
MAX_NAME = 255  # characters of a member's name or of what zipfile says of it
HIDDEN = re.compile(r"(?:^|/)(?:\.|__MACOSX)")
PACKED = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # Python unpacks the rest without a bound on memory


class NotLookedAt(ImageError):
    """Files in an archive that are no images; the message counts them."""


def list_files(folder: Path) -> tuple[list[Path], Counter[str]]:
    """List the files below a folder, sorted, but none that is hidden.

    Links are followed that end below the folder, or in the cache of Hugging Face that it is part of.

    Returns:
        The files; how many links and folders were left out, by what is the matter with them.
    """
    root = folder.resolve()
    homes = [root, *(above / "blobs" for above in root.parents if above.name.startswith("datasets--"))]
    files, left_out, folders, links, seen = [], Counter(), [folder], [], set()
    while folders or links:  # links last: what they lead to has been seen by then, unless it is hidden
        here = folders.pop() if folders else links.pop()
        if (real := here.resolve()) in seen:
            continue
        seen.add(real)
        try:
            entries = [entry for entry in os.scandir(here) if not entry.name.startswith((".", "__MACOSX"))]
        except OSError:
            left_out["folders without permission to read"] += 1
            continue
        for entry in entries:
            path = here / entry.name
            if not entry.is_symlink():
                (folders if entry.is_dir() else files).append(path)
            elif any(Path(os.path.realpath(path)).is_relative_to(home) for home in homes):
                (links if os.path.isdir(path) else files).append(path)  # noqa: PTH112
            else:
                left_out["links that lead out of the folder"] += 1
    return sorted(files), left_out


def find_images(path: Path) -> tuple[list[Path], Counter[str]]:
    """List the images in a folder and the folders below it, sorted; a file is listed as it is.

    Returns:
        The images; how many files of other kinds there are, see `count_kinds`, and what was left out.
    """
    if not os.path.isdir(path):  # noqa: PTH112, which may raise
        return [path], Counter()
    files, left_out = list_files(path)
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    return images, left_out + count_kinds(file for file in files if file.suffix.lower() not in SUFFIXES)


def count_kinds(files: Iterable[str | Path]) -> Counter[str]:
    """Count files by their suffixes, or by their names where they have none."""
    return Counter(file.suffix.lower() or file.name for file in map(Path, files))


def describe_kinds(kinds: Counter[str]) -> str:
    """Write the most frequent of some counts in one line, and what to do about photographs of telephones."""
    text = ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common(9))
    is_photograph = not {".heic", ".heif", ".avif"}.isdisjoint(kinds)
    return text + " (save HEIC and AVIF as JPEG to have them read)" * is_photograph


def open_path(path: Path, name: str) -> Iterator[tuple[str, str | bytes | ImageError]]:
    """Give a file, or the images in a zip archive one after the other, each with its name.

    What is no image in an archive, or can't be unpacked, is named in an error.
    """
    if path.suffix.lower() != ".zip":
        yield name, str(path)
        return
    others, has_images = [], False
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.is_dir() or HIDDEN.search(member.filename):
                    continue
                if member.filename.lower().endswith(SUFFIXES):
                    has_images = True
                    yield f"{name}/{member.filename[-MAX_NAME:]}", _unpack(archive, member)
                else:
                    others.append(member.filename[-MAX_NAME:])
    except FileNotFoundError:
        yield name, ImageError(f"There is no file {path}. Check its path.")
        return
    except Exception as error:  # noqa: BLE001, a damaged archive makes zipfile raise almost anything
        yield name, ImageError(f"The archive can't be unpacked ({str(error)[:MAX_NAME]}). Make it again.")
        return
    found = describe_kinds(count_kinds(others)) or "it is empty"
    if not has_images:
        yield name, ImageError(f"The archive contains no images ({found}).")
    elif others:
        yield name, NotLookedAt(f"Skipped in this archive: {found}.")


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | ImageError:
    if member.compress_type not in PACKED:
        return ImageError("Its compression is not supported. Make the archive again with Deflate.")
    try:
        with archive.open(member) as file:
            content = file.read(MAX_FILE_BYTES + 1)  # what the header says may be wrong
    except Exception as error:  # noqa: BLE001, see above
        return ImageError(f"It can't be unpacked ({str(error)[:MAX_NAME]}). Make the archive again.")
    if len(content) > MAX_FILE_BYTES:
        return ImageError(f"It is larger than {MAX_FILE_BYTES // 1_000_000} MB. Scale it down.")
    return content

"""Which image, and which split, a name means."""

import re
import unicodedata
from collections import defaultdict
from pathlib import Path
from urllib.parse import unquote

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "validation")


def fold(text: str) -> str:
    """Make names alike that differ in case, or in how accents are encoded."""
    return unicodedata.normalize("NFC", text).casefold()


def stem(name: str) -> str:
    """Fold a file's name without its suffix."""
    return fold(re.sub(r"\.[A-Za-z]\w{1,4}$", "", name))


class Names:
    """Finds images by the names that lists give them. A name is compared, never opened."""

    def __init__(self, folder: Path, images: list[Path]) -> None:
        self._folder = folder
        self._images = {image.relative_to(folder).as_posix(): image for image in images}
        self._folders = {path.rpartition("/")[0] for path in self._images}
        self._by_end = defaultdict(list)  # by the last one, two and three parts of their paths
        for path in self._images:
            *above, name = map(fold, [folder.name, *path.split("/")])
            for depth in range(min(3, len(above) + 1)):
                self._by_end["/".join([*above[len(above) - depth :], stem(name)])].append(path)

    def find(self, name: str, place: Path) -> tuple[Path | None, bool]:
        """Find the image that a list in the folder `place` calls so, None where several are as likely.

        That is the one with this path from there, or from a folder above, which is exact; else the one whose
        path ends like it, whatever case and suffix: so other machines' paths, and those with `..`, do, too.
        """
        if "?d=" in name or "://" in name:  # as Label Studio and the web name files
            name = unquote(name.partition("?d=")[2] or name)
        parts = [part for part in name.strip().replace("\\", "/").split("/") if part not in ("", ".", "..")]
        below = place.relative_to(self._folder).parts if place.is_relative_to(self._folder) else ()
        above = [below[:depth] for depth in range(len(below), -1, -1)]
        for prefix in above:
            if image := self._images.get("/".join((*prefix, *parts))):
                return image, True
        named = {"/".join((*prefix, *parts[:-1])) for prefix in above if len(parts) > 1} & self._folders
        for depth in range(min(2, len(parts) - 1), -1, -1):
            *above, last = parts[len(parts) - 1 - depth :]
            for end in (last, re.sub("^[0-9a-f]{8}-", "", last)):  # which Label Studio puts before uploads
                keys = {"/".join([*map(fold, above), key]) for key in (stem(end), fold(end))}
                found = [path for key in keys for path in self._by_end.get(key, ())]
                # Not in another folder than the one that is named and there.
                found = [path for path in found if not named or path.rpartition("/")[0] in named]
                fits = {
                    path: (
                        tuple(path.split("/")[: len(below)]) == below,
                        fold(path).endswith(fold(end)),
                        path.endswith(end),
                    )
                    for path in found
                }
                best = [path for path in found if fits[path] == max(fits.values())]
                if best:
                    return (self._images[best[0]] if len(best) == 1 else None), False
        return None, False


def find_split(*parts: str) -> str:
    """Find the split that is named in a path, "" if there is none or several; the last parts come first."""
    for part in reversed(parts):
        if found := {SPLITS[word] for word in re.findall("[a-z]+", part.casefold()) if word in SPLITS}:
            return found.pop() if len(found) == 1 else ""
    return ""

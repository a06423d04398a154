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
        self._folders = {fold(path.rpartition("/")[0]) for path in self._images}
        self._by_end = defaultdict(list)  # by the last one, two and three parts of their paths
        for path in self._images:
            *above, name = map(fold, [folder.name, *path.split("/")])
            for depth in range(min(3, len(above) + 1)):
                self._by_end["/".join([*above[len(above) - depth :], stem(name)])].append(path)

    def find(self, name: str, place: Path) -> tuple[Path | None, bool]:
        """Find the image that a list in the folder `place` calls so, None where several are as likely.

        That is the one with this path from there, or from a folder above; else the one whose path ends like
        it, whatever case and suffix: so other machines' paths, and those with `..`, do, too. Where a folder
        of images is named, no image in another one is meant.

        Returns:
            The image; whether nothing speaks for another folder than the one it lies in.
        """
        if "?d=" in name or "://" in name:  # as Label Studio and the web name files
            name = unquote(name.partition("?d=")[2] or name)
        parts = [part for part in name.strip().replace("\\", "/").split("/") if part not in ("", ".", "..")]
        is_inside = place.is_relative_to(self._folder)
        below = place.relative_to(self._folder).parts if is_inside else ()
        above = [below[:depth] for depth in range(len(below), -1, -1)]
        for prefix in above:
            if image := self._images.get("/".join((*prefix, *parts))):
                return image, is_inside or len(parts) > 1
        named: set[str] = set()
        for start in range(len(parts) - 1):
            named = named or {fold("/".join((*prefix, *parts[start:-1]))) for prefix in above} & self._folders
        if named and fold(parts[-2]) == fold(self._folder.name):
            named.add("")
        is_bare = len(parts) == 1 and is_inside
        homes = named or ({fold("/".join(below))} & self._folders if is_bare else set())
        for depth in range(min(2, len(parts) - 1), -1, -1):
            *above, last = parts[len(parts) - 1 - depth :]
            for end in (last, re.sub("^[0-9a-f]{8}-", "", last)):  # which Label Studio puts before uploads
                keys = {"/".join([*map(fold, above), key]) for key in (stem(end), fold(end))}
                found = [path for key in keys for path in self._by_end.get(key, ())]
                found = [path for path in found if not named or fold(path.rpartition("/")[0]) in named]
                fits = {
                    path: (
                        tuple(path.split("/")[: len(below)]) == below,
                        fold(path).endswith(fold(end)),
                        path.endswith(end),
                    )
                    for path in found
                }
                most = max(fits.values(), default=None)
                best = [path for path in found if fits[path] == most]
                if len(best) > 1:
                    return None, False
                if best:
                    is_home = fold(best[0].rpartition("/")[0]) in homes
                    return self._images[best[0]], depth > 0 or is_home or (is_bare and not homes)
        return None, False


def find_split(*parts: str) -> str:
    """Find the split that is named in a path, "" if there is none or several; the last parts come first."""
    for part in reversed(parts):
        if found := {SPLITS[word] for word in re.findall("[a-z]+", part.casefold()) if word in SPLITS}:
            return found.pop() if len(found) == 1 else ""
    return ""

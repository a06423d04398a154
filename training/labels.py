"""Where the labels of a folder of images come from: lists, texts beside the images, folders or names."""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from folders import count_kinds, describe_kinds, list_files
from images import SUFFIXES

from training.errors import DatasetError
from training.lists import POSITIONS, READERS, SOURCES, List, ListError, check_file, decode, read_list, show
from training.names import Names, find_split

PATTERN = "(.+)"  # the whole name: nobody has said that names are labels
OTHER_LISTS = {".xml", ".yaml", ".yml", ".mat", ".npy", ".npz", ".pkl", ".h5", ".tfrecord", ".arrow", ".mdb"}
LIST_LIKE = re.compile(
    r"label|annot|transcri|caption|meta_?data|truth|(?:^|[\W_])gt(?:[\W_]|$)", re.IGNORECASE
)
ABOUT = re.compile(
    r"(?:read_?me|licen[cs]e|notice|citation|requirements)\b(?!.*(?:plate|number))", re.IGNORECASE
)
CAMERA = re.compile(
    r"(?:img|dscn?|pxl|image|photo|screenshot|scan|frame|crop|word|page|whatsapp image)[^a-z]*\d"
    r"|(?=\d*[a-f])[\da-f-]{16,}$|\d{8}[_-]\d{6}"
)
COPY = r"(?: \(\d+\)| - (?:copy|kopie|copie|copia)(?: \(\d+\))?| copy(?: \d+)?)"
FEW = 10  # files, below which names in a folder tell too little
HOW = (
    'Set LABEL_FROM to the path of a list, to "name" or to "folder"; docs/own_images.md shows how. '
    "If there are no labels yet, `make label` helps you type them."
)


class Labels(NamedTuple):
    """The labels of a folder, and where they come from."""

    rows: list[tuple[Path, str, str]]  # image, label or "", the split that it is given to, "model" or ""
    missing: list[tuple[str, str]]  # names in lists that are those of no image, and their labels
    said: list[str]  # where labels come from, with examples; then what else the user should know


def read_lists(paths: list[Path], names: Names) -> tuple[dict[Path, List], dict[Path, ValueError]]:
    """Read those files that are lists of images, and say of all others why they are not."""
    lists, faults = {}, {}
    for path in paths:
        try:
            found = read_list(path, lambda name, place=path.parent: bool(names.find(name, place)[0]))
            if not any(names.find(name, path.parent)[0] for name, _ in found.pairs):
                some = show(name for name, _ in found.pairs) or "there are none"
                raise ListError(f"no name in its {found.columns} is that of an image: {some}")
            lists[path] = found
        except (ValueError, OSError) as error:
            faults[path] = error
    return lists, faults


def pair_lists(
    lists: dict[Path, List], names: Names, folder: Path, images: list[Path]
) -> tuple[list[tuple[Path, str, str]], list[tuple[str, str]]]:
    """Pair images with what lists say, "" where they say nothing, and names that no image has with labels.

    The labelling page's answers replace what other lists say.
    """
    rows, missing, answers, known, entries = {}, [], {}, set(images), []
    for path, found in lists.items():
        split = find_split(*path.relative_to(folder).parts) if path.is_relative_to(folder) else ""
        own = {path.parent / name for name, _ in found.pairs} & known
        for name, label in found.pairs:
            exact = path.parent / name  # with spaces around it, too
            image, is_sure = (exact, True) if exact in known else names.find(name, path.parent)
            if found.sources and own and image != exact:
                image = None  # the answer is to a file that is gone
            if image and found.sources:
                answers[image] = label, SOURCES.get(found.sources[name], "")
            else:
                is_guess = not is_sure or (image in own and image != exact)
                entries.append((is_guess, name, image, label, found.splits.get(name) or split))
    meant = {image for is_guess, _, image, *_ in entries if not is_guess}
    for is_guess, name, image, label, split in sorted(entries, key=lambda entry: entry[0]):
        # Where a name's own image is gone, its label is not to go to another one that is named itself.
        if not image or (is_guess and image in meant and (image, label) not in rows):
            missing.append((name, label))
        else:
            rows[image, label] = rows.get((image, label)) or split
    for (image, label), split in rows.items():
        rows[image, label] = split or find_split(*image.relative_to(folder).parts[:-1])
    given = {image: split for (image, _), split in rows.items()}
    rows = {row: split for row, split in rows.items() if row[0] not in answers}
    for image, (label, split) in answers.items():
        other = given.get(image) or find_split(*image.relative_to(folder).parts[:-1])
        rows[image, label] = split or other
    named = {image for image, _ in rows}
    rows |= {(image, ""): "" for image in images if image not in named}
    return [(image, label, split) for (image, label), split in rows.items()], missing


def find_texts(images: list[Path], files: list[Path]) -> dict[Path, Path]:
    """Find the files with the texts of single images: NAME.gt.txt, else NAME.txt where most have one."""
    present, found = {path for path in files if path.suffix == ".txt"}, {}
    for suffix in (".gt.txt", ".txt"):
        for image in images if present else ():
            for name in (image.stem, Path(image.stem).stem):  # of Calamari's NAME.nrm.png
                if name != image.stem and image.stem.removeprefix(name)[1:].isdigit():
                    continue  # 3.50.png is not a kind of 3.png
                if (path := image.parent / (name + suffix)) in present:
                    found.setdefault(image, path)
        if found and (suffix == ".gt.txt" or len(found) * 2 >= len(images)):
            return found
    return {}


def read_one_text(path: Path) -> tuple[str, str]:
    """Read the text of one image; a note comes with it if that isn't in UTF-8.

    Raises:
        DatasetError: If it isn't one line of text.
    """
    try:
        check_file(path)
        text, note = decode(path.read_bytes())
        text = text.strip()
        if len(text.splitlines()) > 1 or POSITIONS.match(text):
            raise ListError("it must be one line, the text of the image")
    except (ValueError, OSError) as error:
        raise DatasetError(f"{path} can't be used ({error}). {HOW}") from error
    return text, note


def labels_from_names(images: list[Path], pattern: str) -> list[str]:
    """Take labels from files' names, "" where the pattern doesn't match."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DatasetError(
            f"LABEL_PATTERN {pattern!r} is not a valid regular expression: {error}."
        ) from error
    if compiled.groups != 1:
        raise DatasetError(f"LABEL_PATTERN {pattern!r} must have one group, as in (.+).")
    found = [compiled.match(image.stem) for image in images]
    return [match[1] or "" if match else "" for match in found]


def are_counters(labels: list[str]) -> bool:
    """Tell whether nine tenths of the labels count files, or are what a camera or a program calls them."""
    numbers = defaultdict(set)
    for label in labels:
        if match := re.fullmatch(r"(\D*)(\d+)(\D*)", label):
            numbers[match[1], match[3]].add(int(match[2]))
    most = max(numbers.values(), key=len, default=set())
    is_dense = len(most) > 4 and max(most) - min(most) < 1.25 * len(most)
    calls = sum(bool(CAMERA.match(label.casefold())) for label in labels)
    return (is_dense and len(most) >= 0.9 * len(set(labels))) or calls >= 0.9 * len(labels)


def object_to_names(folder: Path, images: list[Path], others: list[Path], names: Names) -> Iterator[str]:
    """Say what else in a folder or beside it may hold the labels, and what the names look like."""

    def base(path: Path) -> Path:
        return path.parent / path.name.partition(".")[0]

    bases = set(map(base, images))
    beside = Counter(path.suffix.lower() for path in others if base(path) in bases)
    for suffix, count in beside.items():
        if suffix in READERS.keys() | OTHER_LISTS and count * 2 >= len(images):
            yield f"{count} {suffix} files beside the images may hold their labels, but can't be read."
    for path in others:
        if path.suffix.lower() in OTHER_LISTS and LIST_LIKE.search(path.stem):
            yield f"{path} may hold the labels, but can't be read: save it as CSV."
    above = [path for path in folder.resolve().parent.glob("[!.]*") if path.suffix.lower() in READERS]
    for path, found in read_lists(above, names)[0].items():
        meant = [names.find(name, path.parent) for name, _ in found.pairs]
        count = len({image for image, _ in meant if image})
        if any(is_sure for _, is_sure in meant) or 2 * count >= len(images):
            yield f"{path} lists images of {folder}."
    groups = defaultdict(list)
    for image in images:
        groups[image.parent].append(image)
    for group in (images, *(group for group in groups.values() if len(group) >= FEW)):
        if are_counters([image.stem for image in group]):
            yield f"File names such as {group[0].name} look like serial numbers, not labels."


def note_names(labels: list[str]) -> Iterator[str]:
    """Say what is odd in labels that come from files' names."""
    labels = [label for label in labels if label]
    if not labels:
        return
    if are_counters(labels):
        yield "These look like serial numbers, not labels: one prefix, then numbers."
    elif len(prefix := os.path.commonprefix(labels)) > 2:  # noqa: RUF071, of letters
        yield f"All labels begin with {prefix!r}: LABEL_PATTERN can leave that out."
    if copies := [label for label in labels if re.search(COPY + "$", label, re.IGNORECASE)]:
        yield (
            f"{len(copies)} labels end like those of copies ({copies[0]!r}): delete these files, "
            f"or set LABEL_PATTERN to '(?i)(.+?){COPY}?$'."
        )


def find_labels(folder: Path, pattern: str, label_from: str | Path | None) -> Labels:
    """Find the label of each image below a folder.

    Args:
        folder: Holds the images.
        pattern: Regular expression whose group is the label in a file's name without its suffix.
        label_from: "name", "folder" or the path of a list; None takes the lists in the folder, else the
            texts beside the images, else names where nothing speaks against it.

    Raises:
        DatasetError: If there are no images, or their labels can't be read, or nobody knows which they are.
    """
    files, left_out = list_files(folder)
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    others = [path for path in files if path.suffix.lower() not in SUFFIXES]
    if not images:
        found = describe_kinds(left_out + count_kinds(others)) or "it is empty"
        raise DatasetError(f"There are no images in {folder} ({found}). Check DATASET.")
    names, lists, faults, texts, missing, notes = Names(folder, images), {}, {}, {}, [], []
    is_open = label_from is None and pattern == PATTERN  # nobody has said what the labels are
    if label_from is None:
        texts = find_texts(images, others)
        beside = set(texts.values())
        paths = [path for path in others if path.suffix.lower() in READERS and path not in beside]
        lists, faults = read_lists([path for path in paths if not ABOUT.match(path.name)], names)
        for path, error in list(faults.items()):
            is_damaged = isinstance(cause := error.__cause__ or error, OSError | UnicodeError)
            if isinstance(cause, json.JSONDecodeError):  # settings have comments, too
                is_damaged = any(suffix in cause.doc.lower() for suffix in SUFFIXES)
            is_list = isinstance(error, ListError) or LIST_LIKE.search(path.stem)
            if not is_list and (not is_damaged or path.suffix.lower() == ".txt"):
                del faults[path]
    elif label_from not in ("name", "folder"):
        given = Path(str(label_from)).expanduser()
        path = next((path for path in (given, folder / given, folder.parent / given) if path.exists()), given)
        if (real := path.parent.resolve() / path.name).is_relative_to(folder.resolve()):
            path = folder / real.relative_to(folder.resolve())
        lists, faults = read_lists([path], names)
    if faults and not lists and not texts and (is_open or label_from is not None):
        path, error = next(iter(faults.items()))
        raise DatasetError(f"{path} can't be used ({error}). {HOW}")

    def relative(path: Path) -> str:
        return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()

    used = lists or texts
    splits = [find_split(*image.relative_to(folder).parts[:-1]) for image in images]
    if lists:
        rows, missing = pair_lists(lists, names, folder, images)
        some = [f"{relative(path)}, {found.columns}" for path, found in lists.items()]
        where = "; ".join(some[:3]) + (f"; and {len(some) - 3} more lists" if len(some) > 3 else "")
        notes += [f"{relative(path)} {found.note}." for path, found in lists.items() if found.note]
        if missing:
            some = show(name for name, _ in missing)
            notes.append(f"{len(missing):,} names in lists match no image, or several: {some}.")
    elif texts:
        read = {image: read_one_text(path) for image, path in texts.items()}
        labels = [read[image][0] if image in read else "" for image in images]
        notes += [f"{relative(texts[image])} {note}." for image, (_, note) in read.items() if note][:1]
        used, where = set(texts.values()), f"files such as {next(iter(texts.values())).name}"
    elif label_from == "folder":
        labels = [image.parent.name if image.parent != folder else "" for image in images]
        splits = [find_split(*image.relative_to(folder).parts[:-2]) for image in images]
        where = "the folder names"
    else:
        labels = labels_from_names(images, pattern)
        if is_open and (objection := next(object_to_names(folder, images, others, names), "")):
            raise DatasetError(f"{objection} {HOW}")
        where = "the file names" + f", by LABEL_PATTERN {pattern!r}" * (pattern != PATTERN)
        notes += note_names(labels)
    if pattern != PATTERN and (used or label_from == "folder"):
        notes.append('LABEL_PATTERN is for file names only; to use it, set LABEL_FROM to "name".')
    if not lists:
        rows = list(zip(images, labels, splits, strict=True))
    notes += [f"{relative(path)} isn't used: {error}." for path, error in faults.items()]
    all_splits = [split for _, label, split in rows if label]
    given = Counter(split for split in all_splits if split in ("test", "validation"))
    if given:
        some = " and ".join(f"{split} ({number:,} images)" for split, number in given.items())
        is_all = given.total() == len(all_splits)
        so = (
            "as none is left to train with, they are ignored"
            if is_all
            else "FOLD and SPLIT_BY can override them"
        )
        notes.append(f"Lists or folders give the splits {some}; {so}.")
    if len(others) > len(used) or left_out:
        skipped = [path for path in others if path not in used]
        notes.append(f"Skipped: {describe_kinds(left_out + count_kinds(skipped))}.")
    labelled = [f"{image.name} is {label!r}" for image, label, _ in rows if label]
    examples = ", ".join(labelled[:: max(1, len(labelled) // 3)][:3]) or f"none in {images[0].name}"
    return Labels(rows, missing, [f"Labels come from {where}: {examples}.", *notes])

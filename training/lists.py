"""Reads lists of labels in the formats that other tools write; `read_list` is what others call."""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from images import SUFFIXES

from training.names import find_split

# Names of columns, in small letters and digits alone. A label may be a class where there is a text, too.
NAMES = """file filename filepath fname image images imagefile imagefilename imageid imagename imagepath img
imgfile imgid imgname imgpath name path picture photo"""
TEXTS = """caption captcha groundtruth gt gttext identity licenseplate plate platenumber platetext text texts
transcript transcription transcriptions word words"""
LABELS = "answer content label labels reading solution string target value"
NAMES, TEXTS, LABELS = (frozenset(words.split()) for words in (NAMES, TEXTS, LABELS))
SEPARATORS = ("\t", ",", ";", "|", " ")
MAX_LIST_BYTES = 100_000_000  # 200,000 long names and labels; ten times that in memory
FEW = 10  # lines: too few for spaces to tell a list from prose
SAMPLE = 500  # lines that show what a list is like
POSITIONS = re.compile(
    r"[{\[]+\"|\[\[|(?:ok|err) (?:-?\d+ ){5}|\d+( [01]?\.\d+| [01]){4}"
)  # PPOCRLabel, IAM, YOLO
WORD_NUMBER = re.compile(
    r"(?:^|/)\d+_[^\W\d]+_(\d+)\.\w+\n\1$"
)  # MJSynth: 115_Lube_45484.jpg is labelled 45484

ANSWERS = re.compile(
    rb'(?:\xef\xbb\xbf)?"?filename"?([,;\t])"?label"?\1"?source"?\1"?when"?\r?\n'
)  # begins what the labelling page writes
SOURCES = {"sample": "test", "model": "model"}  # splits by the source; the network's own are never test

IsImage = Callable[[str], bool]  # whether an image has this name


class ListError(ValueError):
    """A list of images whose labels can't be read. A plain ValueError: maybe it is no list at all."""


class List(NamedTuple):
    """What stands in a list."""

    columns: str  # which it was read from, in words
    pairs: list[tuple[str, str]]  # names of images, labels
    note: str = ""
    sources: Mapping[str, str] = MappingProxyType({})  # of the labelling page's answers, by the names
    splits: Mapping[str, str] = MappingProxyType({})  # that a column gives, by the names


def show(texts: Iterable[object], most: int = 3) -> str:
    """Write the first of some texts in one line."""
    return ", ".join(repr(str(text)[:60])[1:-1] for text in islice(texts, most))


def simplify(column: object) -> str:
    """Reduce a column's name to small letters and digits."""
    return re.sub(r"[\W_]+", "", str(column).casefold())


def find_text_column(columns: list[Any]) -> int:
    """Find the one column that is named as texts or labels are.

    Raises:
        ListError: If there is none, or several may be it.
    """
    simple = [simplify(column) for column in columns]
    found = [number for number, column in enumerate(simple) if column in TEXTS]
    found = found or [number for number, column in enumerate(simple) if column in LABELS]
    if len(found) != 1:
        listed = f"({show(columns, 12)})"
        fault = f'none of its columns {listed} is called "label" or "text"'
        raise ListError(f"several columns {listed} may hold the text: rename all but one" if found else fault)
    return found[0]


def take_columns(columns: list[Any], rows: list[Sequence[Any]], is_image: IsImage) -> List:
    """Take names and labels out of a table; the column of names has a usual name, or names of images."""

    def count_images(column: int) -> int:
        return sum(isinstance(row[column], str) and is_image(row[column]) for row in rows[:SAMPLE])

    named = [number for number, column in enumerate(columns) if simplify(column) in NAMES]
    name = max(named or range(len(columns)), key=count_images, default=0)
    if not named and not (columns and count_images(name)):
        raise ValueError("it names no images")
    text = find_text_column(columns)
    words = f"columns {show([columns[name]])} and {show([columns[text]])}"
    simple = [simplify(column) for column in columns]
    if {"source", "when"} <= {*simple}:
        last = {row[name]: row for row in rows if isinstance(row[name], str)}
        sources = {key: row[simple.index("source")] for key, row in last.items()}
        if {*sources.values()} <= {"given", "person", *SOURCES}:  # the page's answers, after a spreadsheet
            return List(words, [(key, row[text]) for key, row in last.items()], sources=sources)
    splits: dict[str, str] = {}
    for column in (number for number, word in enumerate(simple) if word in ("split", "subset")):
        found = {row[name]: find_split(str(row[column])) for row in rows if isinstance(row[name], str)}
        splits = {key: split for key, split in found.items() if split} | splits
    return List(words, [(row[name], row[text]) for row in rows], splits=splits)


def split_line(line: str, separator: str, count: int, text: int) -> list[str]:
    """Split a line into so many cells. Separators that are too many are the text's, which isn't quoted."""
    if separator != "\t":
        with suppress(csv.Error):
            cells = next(csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True))
            if len(cells) == count:
                return cells
    cells = line.split(separator)
    cells += [""] * (count - len(cells))
    end = text + 1 + len(cells) - count
    cells[text:end] = [separator.join(cells[text:end])]
    return [cell.strip(" " if number == text else ' "') for number, cell in enumerate(cells)]


def read_delimited(text: str, is_image: IsImage) -> List:
    """Read columns with a header, or else a name and a text in each line. Tabs are never quoted."""
    lines = [line for line in re.split(r"\r\n|\r|\n", text) if not re.match(r"\s*$|#(?:[\s-]|$)", line)]
    separators = SEPARATORS
    if lines and (said := re.fullmatch(r'"?sep=(.)"?', lines[0], re.IGNORECASE)):  # Excel's
        separators, lines = said[1], lines[1:]
    if not lines:
        raise ValueError("it is empty")

    def split_header(separator: str) -> list[str]:
        return [cell.strip().strip('"') for cell in lines[0].split(separator)]

    def is_name(text: str) -> bool:
        return is_image(text) or Path(text).suffix.lower() in SUFFIXES

    def count_names(separator: str) -> int:
        pairs = (line.partition(separator) for line in lines[:SAMPLE])
        return sum(bool(found) and is_name(name.strip().strip('"')) for name, found, _ in pairs)

    def has_header(separator: str) -> bool:
        columns = [simplify(column) for column in split_header(separator)]
        is_prose = separator == " " and len(columns) > 2
        return not is_prose and not NAMES.isdisjoint(columns) and not (TEXTS | LABELS).isdisjoint(columns)

    known = [separator for separator in separators if has_header(separator)]
    separator = known[0] if known else max(separators, key=count_names)
    columns, half = split_header(separator), len(lines[:SAMPLE]) // 2 or 1
    is_note = separator == " " and len(lines) < FEW  # such as "17.png is upside down"
    if not known and (is_note or count_names(separator) < half):
        if sum(map(is_name, lines[:SAMPLE])) >= half:
            raise ListError("it names images, but gives no labels")
        raise ValueError("it names no images")
    if separator not in "\t " and '"' in text:
        with suppress(csv.Error):  # then a quote is part of a text
            table = csv.reader(io.StringIO("\n".join(lines)), delimiter=separator, strict=True)
            for number, row in enumerate(table, start=1):
                if any("\n" in cell for cell in row):
                    raise ListError(f"entry {number} has a line break: look at its quotes")
    if known or not is_name(columns[0]):
        label = find_text_column(columns)
        rows = [split_line(line, separator, len(columns), label) for line in lines[1:]]
        return take_columns(columns, rows, is_image)
    pairs = [tuple(split_line(line, separator, 2, 1)) for line in lines]
    if len(pairs) > 2 and len({label for _, label in pairs}) == 1:  # as in PPOCRLabel's fileState.txt
        raise ListError(f"all its labels are {show([pairs[0][1]])}")
    return List("two columns without a header", pairs)


def unwrap(value: object) -> object:
    """Take a text out of what Label Studio puts around it."""
    while True:
        match value:
            case [one] | {"text": one}:
                value = one
            case _:
                return value


def pair(image: object, texts: list[object]) -> dict[str, object]:
    """Make a row of an image and the texts that were found in it, at most one."""
    if len(texts) > 1:
        raise ListError(f"in {show([image])} there are {len(texts)} texts: cut it into lines")
    return {"image": image, "text": texts[0] if texts else ""}


def flatten(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Turn an entry of a JSON list into rows of a table, several where several people labelled an image."""
    match entry:
        case {"data": dict(data), "annotations": [*done]}:  # Label Studio
            image = data[min(data, key=lambda key: simplify(key) not in NAMES)]
            rows = []
            for one in done:
                texts = []
                for part in () if one.get("was_cancelled") else one["result"]:
                    text = part["value"].get("text", [])
                    texts += text if isinstance(text, list) else [text]
                rows.append(pair(image, texts))
            return rows
        case {"img_path": image, "instances": [*instances]}:  # MMOCR
            return [pair(image, [instance["text"] for instance in instances])]
    return [{key: unwrap(value) for key, value in entry.items()}]


def read_json(text: str, is_image: IsImage) -> List:
    """Read a dictionary of files and texts, a list of objects, or an object per line. Numbers stay text."""
    decode = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=lambda _: None).decode
    try:
        content = decode(text.strip())
    except ValueError:
        content = [decode(line.strip()) for line in text.split("\n") if line.strip()]
    if isinstance(content, dict):
        tables = {name: value for name, value in content.items() if isinstance(value, list)}
        if any(tables.values()):  # one, or one for each split
            content = [
                {"split": name} | entry if find_split(name) else entry
                for name, entries in tables.items()
                for entry in entries
            ]
        elif content and all(isinstance(value, dict) for value in content.values()):
            content = [{"filename": name} | value for name, value in content.items()]
        elif any(map(is_image, content)) or any(Path(name).suffix.lower() in SUFFIXES for name in content):
            return List("a dictionary", list(content.items()))
        else:
            content = [content]
    rows = [row for entry in content for row in flatten(entry)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return take_columns(columns, [[row.get(column) for column in columns] for row in rows], is_image)


def check_file(path: Path) -> None:
    """Make sure that a file can be read and fits into the memory.

    Raises:
        ListError: If it is no regular file or too large.
    """
    if not path.is_file():  # a pipe or a device might never end
        raise ListError("it is not a file")
    if path.stat().st_size > MAX_LIST_BYTES:
        raise ListError(f"it is larger than {MAX_LIST_BYTES / 1e6:g} MB: split it")


def decode(content: bytes) -> tuple[str, str]:
    """Decode a text as its byte-order mark says, else as UTF-8, else as cp1252, which comes with a note.

    Raises:
        ValueError: If it is no text.
    """
    is_wide, note = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)), ""
    try:
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError:
        note = "isn't in UTF-8 and was read as cp1252: check letters with accents"
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError as error:
            raise UnicodeError("it is neither in UTF-8 nor in cp1252: save it in UTF-8") from error
    if "\0" in text:
        raise UnicodeError("it is not text in UTF-8")
    return text, note


def cut_rows(content: bytes, separator: str) -> bytes:
    """Cut off a last row that was not written to its end; one that lacks only the line break is kept."""
    end = content.rfind(b"\n") + 1
    with suppress(csv.Error):
        last = csv.reader([content[end:].decode(errors="replace")], delimiter=separator, strict=True)
        is_whole = content[-1:] == b'"' or content[end : end + 1] != b'"'  # the page quotes all cells
        if len(next(last, [])) == 4 and is_whole:
            return content + b"\n"
    return content[:end]


def read_answers(content: bytes, separator: str) -> List:
    """Read what the labelling page writes: an image's last row counts, a row that was cut off does not."""
    whole = cut_rows(content, separator)
    text, note = decode(whole)
    lines = [line for line in text.split("\n")[1:] if line.strip()]
    rows = [next(csv.reader([line], delimiter=separator)) for line in lines]  # each by itself
    last = {row[0]: row for row in rows if len(row) == 4}
    if cut := sum(len(row) != 4 for row in rows) + (len(whole) < len(content)):
        note += "; it " * bool(note) + f"has rows that were cut off and don't count: {cut}"
    pairs = [(name, row[1]) for name, row in last.items()]
    return List("columns filename and label", pairs, note, {name: row[2] for name, row in last.items()})


def read_text(path: Path, is_image: IsImage) -> List:
    """Read JSON or columns."""
    content = path.read_bytes()
    if header := ANSWERS.match(content):
        return read_answers(content, header[1].decode())
    text, note = decode(content)
    is_json = path.suffix.lower() in (".json", ".jsonl", ".ndjson")
    if is_json or text.lstrip()[:1] in ("{", "["):
        try:
            return read_json(text, is_image)._replace(note=note)
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # the last three: another shape
            if is_json or isinstance(error, ListError):
                raise
    if re.match('"?sep=', text, re.IGNORECASE):
        note += "; it " * bool(note) + "says in its first line what separates columns, as Excel's files do"
    return read_delimited(text, is_image)._replace(note=note)


def read_parquet(path: Path, is_image: IsImage) -> List:
    """Read the columns of a Parquet file that hold names, texts and numbers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        if sum(group.total_byte_size for group in groups) > MAX_LIST_BYTES:
            raise ValueError("it is too large")
        plain = [
            field.name
            for field in file.schema_arrow
            if pa.types.is_string(field.type)
            or pa.types.is_large_string(field.type)
            or pa.types.is_integer(field.type)
        ]
        table = file.read(plain)
    columns = [
        [None if value is None else str(value) for value in column.to_pylist()] for column in table.columns
    ]
    return take_columns(plain, list(zip(*columns, strict=True)), is_image)


def read_sheet(path: Path, is_image: IsImage) -> List:
    """Read the first sheet of a workbook, if there is a package that can."""
    import pandas as pd

    sheet = pd.read_excel(path, header=None, dtype=str, keep_default_na=False)
    rows = sheet.to_numpy().tolist()
    if not rows:
        raise ValueError("its first sheet is empty")
    return take_columns(rows[0], rows[1:], is_image)


READERS = {".parquet": read_parquet, ".xlsx": read_sheet, ".xls": read_sheet, ".ods": read_sheet}
READERS |= dict.fromkeys((".csv", ".tsv", ".txt", ".lst", ".json", ".jsonl", ".ndjson"), read_text)


def read_list(path: Path, is_image: IsImage) -> List:
    """Read a list of labels; labels that are missing are empty, all others one line of text.

    Raises:
        ListError: If it is a list of images, but can't be used.
        ValueError: If it is no such list, as far as one can tell.
    """
    check_file(path)
    try:
        found = READERS.get(path.suffix.lower(), read_text)(path, is_image)
    except ListError:
        raise
    except ImportError as error:
        raise ListError("no installed package can read it: save it as CSV in UTF-8") from error
    except Exception as error:  # whatever the packages for these formats raise
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    pairs = [(name, "" if label is None else label) for name, label in found.pairs]
    for number, (name, label) in enumerate(pairs, start=1):
        if not (isinstance(name, str) and isinstance(label, str)):
            raise ListError(f"filename and label of entry {number} must be texts")
        if not found.sources and {"\n", "\r", "\t"} & set(label.strip()):
            raise ListError(f"the label of entry {number} has a line break or a tab")
    if found.sources:  # a person has seen these
        return found._replace(pairs=pairs)
    if sum(bool(POSITIONS.match(label)) for _, label in pairs) > len(pairs) / 2:
        raise ListError("it contains bounding boxes: crop the lines of text, and list the crops")
    if pairs and all(WORD_NUMBER.search(f"{name}\n{label}") for name, label in pairs):
        raise ListError(
            r'its labels are word numbers: set LABEL_FROM to "name", LABEL_PATTERN to "\d+_(.+)_"'
        )
    return found._replace(pairs=pairs)

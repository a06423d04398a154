"""Reads the Parquet files of Hugging Face, which hold images and texts."""

import json
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from images import SUFFIXES

from training.errors import DatasetError
from training.lists import find_text_column


def find_image_column(schema: pa.Schema) -> str:
    """Name the column that holds images, encoded, "" if none does."""
    for field in schema:
        is_struct = pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
        if is_struct or pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            return field.name
    return ""


def find_columns(schema: pa.Schema) -> tuple[str, str]:
    """Name the columns that hold images and texts, both "" if none holds images.

    Raises:
        ListError: If images come without texts, or several columns may be texts.
    """
    if not (image := find_image_column(schema)):
        return "", ""
    others = [name for name in schema.names if name != image]
    return image, others[find_text_column(others)]


def may_hold_images(path: Path) -> bool:
    """Tell whether a file holds images, or is so broken that nobody knows."""
    try:
        return bool(find_image_column(pq.read_schema(path)))
    except (pa.ArrowException, OSError):
        return True


def check_columns(end: bytes, name: str) -> None:
    """Check the columns of a file by its end, if that is long enough to name them.

    Raises:
        DatasetError: If they don't hold images and texts. `name` is that of the data set.
    """
    with suppress(pa.ArrowException, OSError):
        schema = pq.read_schema(pa.BufferReader(end))
        try:
            image, _ = find_columns(schema)
        except ValueError as error:
            raise DatasetError(f"{name} can't be used: {error}.") from error
        if not image:
            raise DatasetError(f"{name} contains no images: its columns are {', '.join(schema.names)}.")


def find_classes(schema: pa.Schema, column: str) -> list[str]:
    """Find the words that the numbers in a column stand for, if it is one of the package `datasets`."""
    with suppress(KeyError, TypeError, ValueError):
        return list(json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]["names"])
    return []


def unpack_parquet(path: Path, folder: Path, max_images: int, max_bytes: int) -> None:
    """Write the images in a file into a folder, and the list of their texts.

    The list is called as the file is, for that names the split.

    Raises:
        DatasetError: If the file is broken, has no texts, or too many or too large images.
        OSError: If the disk can't take them.
    """
    size = number = 0
    try:
        with pq.ParquetFile(path) as file:
            image, text = find_columns(file.schema_arrow)
            classes = find_classes(file.schema_arrow, text)
            folder.mkdir(parents=True)
            with (folder / f"{path.stem}.jsonl").open("w", encoding="utf-8") as labels:
                for batch in file.iter_batches(100, columns=[image, text]):
                    for content, label in zip(batch[image].to_pylist(), batch[text].to_pylist(), strict=True):
                        content = content if isinstance(content, dict) else {"bytes": content}
                        suffix = Path(content.get("path") or "").suffix.lower()
                        name = f"{number:06}{suffix if suffix in SUFFIXES else '.png'}"
                        if classes and isinstance(label, int):  # -1 where there is none
                            label = classes[label] if 0 <= label < len(classes) else None
                        elif isinstance(label, int | float):
                            label = str(label)
                        labels.write(json.dumps({image: name, text: label}, default=str) + "\n")
                        if content["bytes"]:
                            (folder / name).write_bytes(content["bytes"])
                            size += len(content["bytes"])
                        number += 1
                        if number > max_images or size > max_bytes:
                            raise ValueError(f"{number:,} images of {size:,} bytes exceed the limit")
    except (pa.ArrowException, OSError, ValueError) as error:
        if getattr(error, "errno", None):  # the disk's; those of a broken file have none
            raise
        cause = " ".join(str(error).split())
        raise DatasetError(f"{path.name} can't be read as images and texts ({cause}).") from error

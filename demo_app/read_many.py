"""Read more images than one process should: on all cores of this machine, or of a Ray cluster.

`python read_many.py SOURCE... --output FOLDER`, after `pip install -r requirements-ray.txt`. A source is a
folder, an image, a `.txt` list of paths (one a line), or a `.parquet` file with the columns `path` (a name
that no other row has) and `bytes` (the encoded image). The output is a folder of part files with the columns
path, text, confidence, sure and error; a part appears once it is whole. Started again with the same folder,
the command reads only what no part has. `RAY_ADDRESS` names a cluster to use; its nodes need the same
requirements and see the same paths, and get the model and the code from here.
"""

import argparse
import functools
import logging
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import ray
from folders import find_images
from images import SUFFIXES, ImageError
from ocr import ModelError, Recognizer
from pyarrow.csv import ParseOptions, write_csv
from pyarrow.dataset import CsvFileFormat, ParquetFileFormat, dataset
from pyarrow.parquet import write_table
from tqdm import tqdm

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("text", pa.string()),
        ("confidence", pa.float32()),
        ("sure", pa.bool_()),
        ("error", pa.string()),
    ]
)
FORMATS = {  # how a part is read again, and how it is written
    "parquet": (ParquetFileFormat(), write_table),
    "csv": (CsvFileFormat(ParseOptions(newlines_in_values=True)), write_csv),
}
BLOCK = 512  # images per task: about half a second of a core, so that Ray's own work does not show
PART_SECONDS = 10  # between part files: about what a killed command loses
CODE = ("decoding.py", "folders.py", "formats.py", "images.py", "ocr.py", "read_many.py", "network.py")
MODEL = ("ocr_model", "ocr_model.onnx", "char_to_num", "num_to_char", "new_export")


class SourceError(ValueError):
    """Sources or an output folder that can't be used; the message says what is wrong and what to do."""


@functools.cache  # one warm model in each worker process, whatever tasks come
def recognizer() -> Recognizer:
    """Load the model."""
    return Recognizer()


def read(images: pa.Table) -> pa.Table:
    """Read a block of images in a worker.

    Args:
        images: Column `path`, and `bytes` where the images don't lie under their paths.

    Returns:
        A row with `SCHEMA` for each; text, confidence and sure are null where there is an error.
    """
    paths = images["path"].to_pylist()
    sources = images["bytes"].to_pylist() if "bytes" in images.column_names else paths
    rows = [
        {"path": path, "error": str(reading)}
        if isinstance(reading, ImageError)
        else {"path": path, "text": reading.text, "confidence": reading.confidence, "sure": reading.sure}
        for path, reading in zip(paths, recognizer().read_each(sources), strict=True)
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def find_written(output: Path, suffix: str) -> pa.ChunkedArray:
    """Return the paths in the part files of a folder.

    Raises:
        SourceError: If the parts are of another format.
    """
    for other in FORMATS.keys() - {suffix}:
        if any(output.glob(f"*.{other}")):
            raise SourceError(
                f"{output} holds .{other} files. Go on with --format {other}, or give a new folder."
            )
    parts = [str(part) for part in output.glob(f"*.{suffix}")]
    if not parts:
        return pa.chunked_array([], pa.string())
    return dataset(parts, SCHEMA, FORMATS[suffix][0]).to_table(["path"])["path"]


def list_images(sources: list[Path]) -> pa.Array | pa.ChunkedArray:
    """List the images of folders and of lists, each once, as absolute paths."""
    paths = []
    for source in sources:
        if source.suffix == ".txt":
            lines = source.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
            paths += [Path(line) for line in lines if line]
        else:
            paths += find_images(source)[0]
    # A name that is not UTF-8 is not found under its escaped form, and so gets a row with that error.
    escaped = [str(path.absolute()).encode("utf-8", "backslashreplace").decode() for path in paths]
    return pa.array(escaped, pa.string()).unique()


def open_files(files: list[str], written: pa.ChunkedArray) -> tuple[ray.data.Dataset | None, int, int]:
    """Do as `open_sources` does, for Parquet files.

    Raises:
        SourceError: If one is not Parquet, lacks a column, or holds a name that stands elsewhere.
    """
    try:
        table = dataset(files, format="parquet")
        missing = {"path", "bytes"} - set(table.schema.names)
        if missing:
            raise SourceError(f"{files[0]} has no column {' and no '.join(sorted(missing))}.")
        names = table.to_table(["path", "__filename"])
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"The Parquet files can't be read: {error}") from error
    names = names.set_column(0, "path", names["path"].cast(pa.string()))
    if pc.count_distinct(names["path"], mode="all").as_py() < len(names):
        counts = names.group_by("path").aggregate([([], "count_all")])
        twice = counts.filter(pc.greater(counts["count_all"], 1))["path"][0]
        raise SourceError(f"The path {twice} is in more than one row. Make the column path unique.")
    is_written = pc.is_in(names["path"], written)
    left = names.filter(pc.invert(is_written))
    files = left["__filename"].unique()
    begun = names.filter(pc.and_(is_written, pc.is_in(names["__filename"], files)))["path"].combine_chunks()

    def leave_out(images: pa.Table) -> pa.Table:
        images = images.set_column(0, "path", images["path"].cast(pa.string()))
        return images.filter(pc.invert(pc.is_in(images["path"], begun)))

    if not len(left):
        return None, 0, len(names)
    images = ray.data.read_parquet(files.to_pylist()).select_columns(["path", "bytes"])
    return images.map_batches(leave_out, batch_format="pyarrow", batch_size=None), len(left), len(names)


def open_sources(sources: list[Path], written: pa.ChunkedArray) -> tuple[ray.data.Dataset | None, int, int]:
    """Find the images that are still to be read.

    Args:
        sources: Folders, images and lists, or Parquet files.
        written: The paths to leave out.

    Returns:
        images: As `read` takes them; None if nothing is left.
        left: How many they are.
        count: How many the sources have.

    Raises:
        SourceError: If the sources can't be used.
    """
    files = [str(source) for source in sources if source.suffix == ".parquet"]
    if files and len(files) < len(sources):
        raise SourceError("Some sources are Parquet files and some are not. Read them one after the other.")
    if files:
        return open_files(files, written)
    paths = list_images(sources)
    if not len(paths):
        raise SourceError(f"There are no {', '.join(SUFFIXES)} files in {', '.join(map(str, sources))}.")
    left = paths.filter(pc.invert(pc.is_in(paths, written)))
    if not len(left):
        return None, 0, len(paths)
    blocks = -(-len(left) // BLOCK)
    return ray.data.from_arrow(pa.table({"path": left}), override_num_blocks=blocks), len(left), len(paths)


def write_parts(blocks: Iterable[pa.Table], output: Path, suffix: str, progress: tqdm) -> int:
    """Write readings as part files, each under its name once it is whole; return how many are errors."""
    errors, rows, due = 0, [], time.monotonic() + PART_SECONDS

    def write() -> None:
        unfinished = output / ".unfinished"
        with unfinished.open("wb") as file:
            FORMATS[suffix][1](pa.concat_tables(rows), file)
            file.flush()
            os.fsync(file.fileno())  # a machine that loses its power must not leave the name without the rows
        unfinished.replace(output / f"{uuid4().hex}.{suffix}")
        rows.clear()

    for block in blocks:
        rows.append(block)
        errors += len(block) - block["error"].null_count
        progress.update(len(block))
        if time.monotonic() >= due:
            write()
            due = time.monotonic() + PART_SECONDS
    if rows:
        write()
    return errors


def main() -> int:
    """Read the sources named on the command line; return 1 if an image could not be read, else 0."""
    parser = argparse.ArgumentParser(description="Read the text in many images with Ray.")
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="SOURCE", help="folder, image, .txt or .parquet"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="gets the part files")
    parser.add_argument("--format", choices=FORMATS, default="parquet", help="of the part files")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes, one core each (default: one for each core)"
    )
    arguments = parser.parse_args()
    if arguments.workers is not None and arguments.workers < 1:
        parser.error("--workers must be at least 1")
    try:
        runtime = os.environ.get("RUNTIME", "onnx")  # which takes less of the processor
        Recognizer(runtime=runtime)  # a damaged model is found here, not in each worker
        arguments.output.mkdir(parents=True, exist_ok=True)
        written = find_written(arguments.output, arguments.format)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports home where this is not set
        ray.init(
            os.environ.get("RAY_ADDRESS", "local"),  # by itself Ray joins whatever was started here last
            runtime_env={
                "working_dir": str(Path(__file__).parent),
                "excludes": ["/*", "!/.", *(f"!/{name}" for name in CODE + MODEL)],
                # One thread in each worker: more would fight for the cores.
                "env_vars": {
                    "TF_NUM_INTRAOP_THREADS": "1",
                    "TF_NUM_INTEROP_THREADS": "1",
                    "OMP_NUM_THREADS": "1",
                    "RUNTIME": runtime,
                },
            },
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False  # Ray's count blocks, ours images
        images, left, count = open_sources(arguments.sources, written)
    except (ModelError, SourceError, OSError) as error:
        parser.exit(1, f"{error}\n")
    errors = 0
    if images:
        # Tasks and not actors: a task of a node that died runs again wherever there is room, while an actor
        # waits for a node of its own.
        readings = images.map_batches(
            read,
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.TaskPoolStrategy(arguments.workers),
        )
        with tqdm(total=count, initial=count - left, unit="image") as progress:
            blocks = readings.iter_batches(batch_size=None, batch_format="pyarrow")
            errors = write_parts(blocks, arguments.output, arguments.format, progress)
    print(f"{left:,} images read, {errors:,} of them with an error; {count - left:,} had been read before.")
    return 1 if errors else 0


if __name__ == "__main__":
    import read_many  # workers can import what it defines, and so keep the model from one task to the next

    try:
        status = read_many.main()
    except KeyboardInterrupt:
        status = "The same command continues where it stopped."
    except OSError as error:  # a full disk
        status = f"{error}. The same command continues where it stopped."
    sys.exit(status)

"""Brings a data set into a folder: from Kaggle, from Hugging Face, from a zip archive, or drawn."""

import hashlib
import io
import os
import re
import shutil
import sys
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import redirect_stdout, suppress
from functools import partial
from pathlib import Path

from tqdm import tqdm

from training.errors import DatasetError, DatasetUnreachable
from training.locking import temporary_folder

# What takes long to import is imported where it is needed: a wrong name ends in its sentence at once.

DEFAULT_DATASET = "kaggle:fournierp/captcha-version-2-images"
DEFAULT_COUNT = 1070  # of synthetic images, as many as the default data set has
REMOTE = re.compile(r"(kaggle|hf):(\w[\w.-]*)/(\w[\w.-]*)", re.ASCII)
SYNTHETIC = re.compile(r"synthetic(?::([1-9]\d{0,5}))?", re.ASCII)
REACH_SECONDS = 10  # until a site must have answered at all: the wait where there is no network
STALL_SECONDS = 60  # without a new byte until a download is given up
END_BYTES = 1 << 20  # of a Parquet file, where its columns are named
MAX_MEMBERS, MAX_BYTES = 200_000, 4 << 30  # of an archive, so that no bomb fills the disk
BROKEN = (  # what zipfile raises: the last three where a name is that of a file and of a folder
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    RuntimeError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
)
REFUSALS = {
    401: "the name or the token is wrong: check the name, and KAGGLE_API_TOKEN or HF_TOKEN",
    403: "no access: check the name, accept the terms on its page, set KAGGLE_API_TOKEN/HF_TOKEN",
    404: "there is no such data set: check the name",
}


def check_members(members: list[zipfile.ZipInfo]) -> None:
    """Check the table of contents of a zip, before anything is unpacked.

    Raises:
        ValueError: If the members are too many or too large, or one of them is packed uncommonly.
    """
    size = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS or size > MAX_BYTES:
        raise ValueError(f"{len(members):,} files of {size:,} bytes exceed the limit")
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename!r} has an unsupported compression")


def open_zip(archive: Path) -> zipfile.ZipFile:
    """Open a zip. Names that don't tell their encoding are UTF-8 if they can be, as macOS writes them."""
    try:
        return zipfile.ZipFile(archive, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        return zipfile.ZipFile(archive)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip that nobody vouches for.

    zipfile reads no byte more than a member declares, and writes each as a plain file below the folder,
    whatever its name says, links too.

    Raises:
        DatasetError: If it's broken, unsafe or too large. What is unpacked by then stays.
    """
    try:
        with open_zip(archive) as bundle:
            check_members(bundle.infolist())
            folder.mkdir(exist_ok=True)
            for member in bundle.infolist():
                if member.create_system == 0:  # of Windows, whose PowerShell 5 writes backslashes
                    member.filename = member.filename.replace("\\", "/")
            bundle.extractall(folder, tqdm(bundle.infolist(), "Unpacking", mininterval=1, delay=5))
    except BROKEN as error:
        raise DatasetError(
            f"The archive {archive.name} is broken or unsafe ({error}): get it again, "
            "or unpack it by hand and give the path to the folder."
        ) from error


def find_parquets(folder: Path) -> list[Path]:
    """List the Parquet files below a folder that hold images, or are broken."""
    from folders import list_files

    files = [path for path in list_files(folder)[0] if path.suffix.lower() == ".parquet"]
    if files:
        from training.parquet import may_hold_images

        files = list(filter(may_hold_images, files))
    return files


def unpack_parquets(files: list[Path], source: Path, folder: Path) -> None:
    """Write the images of Parquet files below one folder into another, and lists of their texts.

    Raises:
        DatasetError: If a file is broken, or too large, or holds images without texts.
    """
    from training.parquet import unpack_parquet

    for path in files:
        unpack_parquet(path, folder / path.relative_to(source).with_suffix(".images"), MAX_MEMBERS, MAX_BYTES)


def fill_and_unpack(fill: Callable[[Path], object], folder: Path) -> None:
    """Fill a folder, and put images in the place of Parquet files that hold them."""
    fill(folder)
    files = find_parquets(folder)
    unpack_parquets(files, folder, folder)
    for path in files:
        path.unlink()


def download_from_kaggle(name: str, folder: Path) -> None:
    """Download and unpack a data set of Kaggle: with a token where there is one, else without."""
    from kaggle.api.kaggle_api_extended import KaggleApi

    api = KaggleApi()
    with suppress(SystemExit, NameError):  # its exit(1), a name that Jupyter hides: no token
        api.authenticate()
    api.dataset_download_files(name, path=folder, quiet=False)
    archive = folder / f"{name.split('/')[1]}.zip"
    unpack(archive, folder)
    archive.unlink()


def download_from_hub(name: str, folder: Path) -> None:
    """Download what can be read of a data set of Hugging Face; zip archives are unpacked where they lie.

    Raises:
        DatasetError: If there is nothing that can be read, or too much. Nothing is downloaded then.
    """
    with warnings.catch_warnings(action="ignore"):  # of widgets for bars, which Jupyter may lack
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.hf_api import RepoFile
    from images import SUFFIXES

    from training.lists import READERS

    api = HfApi()
    commit = api.repo_info(name, revision="main", repo_type="dataset").sha
    tree = api.list_repo_tree(name, recursive=True, revision=commit, repo_type="dataset")
    sizes = {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
    kinds = {path: Path(path).suffix for path in sizes}
    images = {*SUFFIXES, ".zip", ".parquet"}
    wanted = [path for path, kind in kinds.items() if kind.lower() in images | READERS.keys()]
    parquets = [path for path in wanted if kinds[path].lower() == ".parquet"]
    if images.isdisjoint(kinds[path].lower() for path in wanted):
        some = ", ".join(sorted({kind or path for path, kind in kinds.items()})[:9])
        raise DatasetError(f"hf:{name} contains no images, zip archives or Parquet files, only {some}.")
    if (size := sum(sizes[path] for path in wanted)) > MAX_BYTES:
        raise DatasetError(f"hf:{name} is too large: {size:,} bytes. Download a part of it by hand.")
    if parquets and (images - {".parquet"}).isdisjoint(kinds[path].lower() for path in wanted):
        check_remote_parquet(name, commit, parquets[0], sizes[parquets[0]])
    patterns = sorted({f"*{kinds[path]}" for path in wanted})
    snapshot_download(name, repo_type="dataset", revision=commit, allow_patterns=patterns, local_dir=folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    for archive in sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".zip"):
        unpack(archive, archive.with_suffix(""))
        archive.unlink()


def check_remote_parquet(name: str, commit: str, path: str, size: int) -> None:
    """Look at the end of a Parquet file on Hugging Face, where its columns are named.

    Raises:
        DatasetError: If it doesn't hold images and texts.
    """
    import requests
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    from training.parquet import check_columns

    url = hf_hub_url(name, path, repo_type="dataset", revision=commit)
    span = {"Range": f"bytes={max(0, size - END_BYTES)}-{size - 1}"}
    answer = requests.get(url, headers=build_hf_headers() | span, timeout=STALL_SECONDS)
    answer.raise_for_status()
    check_columns(answer.content, f"hf:{name}")


def size_of(folder: Path) -> int:
    """Add up the sizes of the files in a folder; -1 if one of them moves meanwhile."""
    with suppress(FileNotFoundError):
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return -1


def watch(work: Callable[[], object], folder: Path, seconds: float) -> None:
    """Do some work in a thread until it ends or `folder` stops changing.

    Both sites' packages wait for a silent server without end, and no timeout of theirs covers
    looking up a host's name.

    Raises:
        TimeoutError: If `folder` stays as it is for so many seconds.
        Exception: Whatever the work raises.
    """
    outcome: Future[object] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except (Exception, SystemExit) as error:  # noqa: BLE001, raised again below
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    before, now = None, size_of(folder)
    while not wait([outcome], seconds).done:
        before, now = now, size_of(folder)
        if now == before:
            raise TimeoutError
    outcome.result()


def download(
    dataset: str, folder: Path, reach_seconds: float = REACH_SECONDS, stall_seconds: float = STALL_SECONDS
) -> None:
    """Download a data set, kaggle:owner/name or hf:owner/name, into an empty folder.

    Raises:
        DatasetUnreachable: If there is no network, or the download breaks off.
        DatasetError: If the site refuses, or an archive is broken or unsafe.
        OSError: If the disk is full or may not be written.
    """
    import huggingface_hub.constants
    import requests
    from huggingface_hub.errors import HFValidationError, HTTPError
    from kagglesdk.kaggle_env import KaggleEnv, get_endpoint

    site, name = dataset.split(":")
    if site == "hf":
        work, host = download_from_hub, huggingface_hub.constants.ENDPOINT
    else:
        work, host = download_from_kaggle, get_endpoint(KaggleEnv.PROD)
        if "google.colab" in sys.modules:
            with suppress(Exception):  # no such secret, no access to it, no answer: then without
                from google.colab import userdata

                os.environ["KAGGLE_API_TOKEN"] = userdata.get("KAGGLE_API_TOKEN")
    try:
        with redirect_stdout(io.StringIO()):  # kaggle prints a page of help where there is no token
            watch(lambda: requests.head(host, timeout=reach_seconds), folder, reach_seconds)
            watch(lambda: work(name, folder), folder, stall_seconds)
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        if getattr(error, "errno", None):  # the disk's: the network's, as they come here, have none
            raise
        answers = [getattr(fault, "response", None) for fault in (error, error.__cause__)]
        status = next((answer.status_code for answer in answers if answer is not None), None)
        if isinstance(error, HFValidationError):
            status = 404
        if status in REFUSALS:
            raise DatasetError(f"{dataset}: {REFUSALS[status]}.") from error
        cause = (
            f"the site answers {status}" if status else "it broke off" if size_of(folder) else "no connection"
        )
        raise DatasetUnreachable(
            f"{dataset} can't be downloaded ({cause}): check your internet connection, try again later, "
            "or download it by hand and give the path to the zip."
        ) from error


def fill_once(folder: Path, target: Path, fill: Callable[[Path], object]) -> None:
    """Fill `target`, somewhere below `folder`, unless it is there. It appears when it is complete."""
    if target.is_dir():
        return
    with temporary_folder(folder, ".part-") as part:
        ready = part / "ready"
        ready.mkdir()
        fill(ready)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            ready.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise


def hash_files(paths: list[Path], folder: Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of what files below a folder are called and hold."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.relative_to(folder).as_posix().encode(errors="surrogateescape"))
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()[:16]


def fetch(dataset: str, folder: Path, seed: int) -> tuple[Path, str]:
    """Bring a data set here, once: what is complete stays in `folder` and is found again.

    Where the default data set can't be reached, synthetic images in its look take its place.

    Args:
        dataset: kaggle:owner/name, hf:owner/name, synthetic[:count], or the path to a folder or a zip.
        folder: Where data sets are kept that are downloaded, unpacked or drawn.
        seed: Of synthetic images.

    Returns:
        The folder that holds the images, and the name of the data set that was really used.

    Raises:
        DatasetUnreachable: If the network doesn't bring it.
        DatasetError: If there is no such data set or no access to it, if it's broken, unsafe or
            too large, or if the disk can't take it.
    """
    path, name = Path(dataset), dataset
    with suppress(RuntimeError):  # there is no such user
        path = path.expanduser()
    try:
        if remote := REMOTE.fullmatch(dataset):
            target = folder.joinpath(*remote.groups())
            fill = partial(fill_and_unpack, partial(download, dataset))
        elif synthetic := SYNTHETIC.fullmatch(dataset):
            from training.synthetic import draw_dataset

            count = int(synthetic[1] or DEFAULT_COUNT)
            target, fill = folder / f"synthetic-{count}-{seed}", partial(draw_dataset, count, seed)
        elif dataset and path.is_dir():
            from folders import find_images

            name, parquets = path.absolute().name, find_parquets(path)
            if not parquets:
                return path, name
            if others := find_images(path)[0]:
                print(f"Only the Parquet files of {path} are used. Other image files: {len(others):,}.")
            digest = hash_files(parquets, path)
            target, fill = folder / f"{name}-{digest}", partial(unpack_parquets, parquets, path)
        elif path.is_file():
            if (size := path.stat().st_size) > MAX_BYTES:
                raise DatasetError(
                    f"{path.name} is too large: {size:,} bytes. Unpack it, and set DATASET to the folder."
                )
            target, name = folder / f"{path.stem}-{hash_files([path], path.parent)}", path.name
            fill = partial(fill_and_unpack, partial(unpack, path))
        else:
            raise DatasetError(
                f"There is no data set {dataset!r}: give kaggle:owner/name, hf:owner/name, "
                "synthetic[:count], or the path to a folder or a zip that exists."
            )
        fill_once(folder, target, fill)
    except DatasetUnreachable as error:
        if dataset != DEFAULT_DATASET:
            raise
        print(f"{error} Going on with synthetic look-alikes.")
        return fetch("synthetic", folder, seed)
    except OSError as error:
        if error.filename and Path(error.filename).is_relative_to(path):
            raise DatasetError(
                f"{dataset} can't be read ({error.strerror}): check its path and permissions."
            ) from error
        raise DatasetError(
            f"{dataset} can't be kept in {folder} ({error}): make room, or choose another folder."
        ) from error
    return target, name

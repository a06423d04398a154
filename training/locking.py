"""Folders that several runs share: who holds one, and temporary ones that outlive no process."""

import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def hold(folder: Path) -> FileLock | None:
    """Lock a folder until `release`, at the latest until this process ends, even if it is killed.

    Returns:
        The lock, or None where it is held by another process, or by another call in this one.
    """
    lock = FileLock(folder / "lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder and delete it at the end; one of a killed process is deleted by the next call here.

    Machines that share `parent` may not see each other's locks, so each deletes only its own folders.
    """
    parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{prefix}{platform.node()}-"
    # One that holds nothing but the lock may be about to be locked.
    filled = {path.parent for path in parent.glob(f"{prefix}*/*") if path.name != "lock"}
    for folder in filled:
        if lock := hold(folder):
            lock.release()
            shutil.rmtree(folder, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as name,
        FileLock(Path(name, "lock"), thread_local=False),
    ):
        yield Path(name)

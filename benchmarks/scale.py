"""Reading with Ray: the texts of one process, the speed of two workers, a node that dies, a killed command.

`python benchmarks/scale.py`, after `pip install -r demo_app/requirements-ray.txt`, draws 100,000 images once,
looks at them as the notebook does before training, reads them with `ocr.py` and with `read_many.py`, and some
of them on one and two workers, on a cluster of two nodes on this machine of which one is killed half-way, and
with a command that is killed half-way and started again. It stops where an image is missing, stands twice or
has another text, and writes `scale.json`.
"""

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
from runs import ROOT, WORK, free_port, write

from training.data import scan
from training.synthetic import draw_dataset

COUNT, FEWER = 100_000, 20_000
FOLDER = WORK / "hundred_thousand"
APP = ROOT / "demo_app"
SECRET = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}  # what the nodes know each other by


def read_many(
    source: Path,
    output: Path,
    *options: str,
    half_way: Callable[[int], None] | None = None,
    **environment: str,
) -> tuple[float, float, str]:
    """Run the command; at half of the images call a function with its process id.

    Returns:
        seconds: Of the whole command.
        rate: Images a second from its first readings to its last.
        said: Its last line; empty if it was killed.
    """
    command = [sys.executable, str(APP / "read_many.py"), str(source), "--output", str(output), *options]
    seen, start = [], time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    ) as process:
        for line in process.stderr:
            sys.stderr.write(line)
            if progress := re.search(r" (\d+)/(\d+) \[", line):
                done, total = map(int, progress.groups())
                if not seen or done > seen[-1][1]:
                    seen.append((time.perf_counter(), done))
                if half_way and 2 * done >= total:
                    half_way(process.pid)
                    half_way = None
        said = process.stdout.read().strip().rpartition("\n")[2]
    seen = [(when, done) for when, done in seen if done]
    (first, begun), (last, done) = seen[0], seen[-1]
    return time.perf_counter() - start, (done - begun) / (last - first), said


def check(output: Path, expected: pd.DataFrame) -> None:
    """Compare what lies in a folder with the rows of the local command."""
    found = pd.read_parquet(output)
    assert found["path"].is_unique and found["error"].isna().all()
    found = found.set_index("path").sort_index()
    assert found.index.equals(expected.index)
    different = expected.index[found["text"] != expected["text"]]
    assert different.empty, different
    assert ((found["confidence"] - expected["confidence"]).abs() < 1e-3).all()


@contextlib.contextmanager
def node(*options: str) -> Iterator[psutil.Process]:
    """Start a node of a cluster with one core, wait until it runs, kill it and all it started at the end."""
    ray = Path(sys.executable).with_name("ray")
    command = [ray, "start", "--block", "--num-cpus=1", "--object-store-memory=200000000"]
    command += ["--disable-usage-stats", *options]
    log = WORK / "node.log"
    options = {"stderr": subprocess.STDOUT, "env": os.environ | SECRET}
    with log.open("w") as output, subprocess.Popen(command, stdout=output, **options) as process:
        ours = psutil.Process(process.pid)
        try:
            while "Ray runtime started" not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.5)
            yield ours
        finally:
            kill(ours)


def kill(node: psutil.Process) -> float:
    """Kill a process and all that it started, at once; return the seconds of processor they had used."""
    seconds = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [node, *node.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                seconds += process.cpu_times().user
                process.kill()
    return seconds


def main() -> None:
    """Measure, print and write."""
    if not FOLDER.exists():
        print(f"drawing {COUNT:,} images")
        draw_dataset(COUNT, 0, WORK / "drawing").rename(FOLDER)
    WORK.joinpath("scale").mkdir(exist_ok=True)
    start = time.perf_counter()
    scan(FOLDER, "(.+)")
    scan_seconds = time.perf_counter() - start

    def output(name: str) -> Path:
        folder = WORK / "scale" / name
        for part in folder.glob("*"):
            part.unlink()
        return folder

    start = time.perf_counter()
    local = WORK / "scale" / "local.csv"
    command = [sys.executable, APP / "ocr.py", FOLDER, "--csv", local]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    local_seconds = time.perf_counter() - start
    rows = pd.read_csv(local, keep_default_na=False, dtype=str).set_index("file").sort_index()
    rows["confidence"] = rows["confidence"].astype(float)
    results = {
        "images": COUNT,
        "scan_seconds": scan_seconds,
        "right": int((rows["text"] == [Path(path).stem for path in rows.index]).sum()),
        "local_seconds": local_seconds,
        "local_images_per_second": COUNT / local_seconds,
    }

    folder = output("all")
    results["ray_seconds"], results["ray_images_per_second"], _ = read_many(FOLDER, folder)
    check(folder, rows)
    results["bytes_per_reading"] = sum(part.stat().st_size for part in folder.iterdir()) / COUNT

    some = rows.iloc[:FEWER]
    listed = WORK / "scale" / "some.txt"
    listed.write_text("\n".join(some.index), encoding="utf-8")
    results["images_of_the_rest"] = FEWER
    rates = {"1": [], "2": []}
    for _ in range(2):
        for workers, measured in rates.items():
            folder = output(f"workers{workers}")
            measured.append(read_many(listed, folder, "--workers", workers)[1])
            check(folder, some)
    results["images_per_second_of_workers"] = rates

    port, folder = free_port(), output("cluster")
    address = f"127.0.0.1:{port}"
    with (
        tempfile.TemporaryDirectory(
            ignore_cleanup_errors=True
        ) as session,  # elsewhere Ray would find it again
        node("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={session}"),
        node(f"--address={address}") as second,
    ):
        used = []
        seconds, _, said = read_many(
            listed, folder, half_way=lambda _: used.append(kill(second)), RAY_ADDRESS=address, **SECRET
        )
    check(folder, some)
    results["node_killed"] = {"said": said, "seconds": seconds, "its_processor_seconds": used[0]}

    folder = output("killed")

    def kill_command(process: int) -> None:
        while not any(folder.glob("*.parquet")):
            time.sleep(0.1)
        os.kill(process, signal.SIGKILL)

    _, _, said = read_many(listed, folder, half_way=kill_command)
    assert not said
    kept = len(pd.read_parquet(folder))
    *_, said = read_many(listed, folder)
    assert said.endswith(f"; {kept:,} had been read before.") and 0 < kept < FEWER
    check(folder, some)
    results["command_killed"] = {"kept": kept, "said": said}

    write("scale", results)
    for name, value in results.items():
        print(name, value)


if __name__ == "__main__":
    main()

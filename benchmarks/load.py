"""The app under load: 32 clients for ten minutes, one image in ten rubbish, then 500 clients at once.

`python benchmarks/load.py` starts the shipped app on 127.0.0.1, prints and writes `load.json`.
"""

import argparse
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import psutil
import urllib3
from runs import ROOT, WORK, serve, write

CLIENTS, CROWD, RUBBISH = 32, 500, 10  # every so many-th image is rubbish
EXAMPLES = [(path.stem, path.read_bytes()) for path in sorted((ROOT / "demo_app" / "Examples").iterdir())]
KINDS = {400: "refused", 422: "refused", 503: "busy"}  # an empty body, no image, too many at once
MEGABYTE = 1_000_000


class Answer(NamedTuple):
    """What came back: "right", "refused" (rubbish), "busy" or "failed", and after how many seconds."""

    kind: str
    seconds: float


def ask(pool: urllib3.HTTPConnectionPool, text: str, content: bytes) -> Answer:
    """Send an image in one request and judge the answer."""
    start, kind = time.perf_counter(), "failed"
    try:
        answer = pool.request("POST", "/read", body=content)
    except urllib3.exceptions.HTTPError as error:
        print("failed:", repr(error))
    else:
        if answer.status == 200 and answer.json()["text"] == text:
            kind = "right"
        elif answer.status in KINDS:
            kind = KINDS[answer.status]
        else:
            print("failed:", answer.status, answer.data[:200])
    return Answer(kind, time.perf_counter() - start)


def connect(address: str, connections: int = 1) -> urllib3.HTTPConnectionPool:
    """Prepare connections to an address, without trying again where one fails."""
    return urllib3.connection_from_url(address, maxsize=connections, timeout=120, retries=False)


def work(address: str, number: int, seconds: float, rubbish: int) -> list[Answer]:
    """Be one client: send one image after the other; of each `rubbish` of them one is none (0: all are)."""
    rng, answers, end = np.random.default_rng(number), [], time.perf_counter() + seconds
    with connect(address) as pool:
        for text, content in itertools.islice(itertools.cycle(EXAMPLES), number % len(EXAMPLES), None):
            if time.perf_counter() > end:
                return answers
            if rubbish and (len(answers) + number) % rubbish == 0:
                cut = content[: rng.integers(len(content) // 2)]
                answer = ask(pool, "", rng.bytes(5000) if rng.random() < 0.5 else cut)
                answers.append(answer._replace(kind="refused" if answer.kind == "refused" else "failed"))
            else:
                answer = ask(pool, text, content)
                answers.append(answer._replace(kind="failed" if answer.kind == "refused" else answer.kind))
    raise AssertionError("the examples go on without end")


def crowd_in(address: str) -> list[Answer]:
    """Send one image from each of `CROWD` clients at once."""
    gate = threading.Barrier(CROWD, timeout=60)

    def come(number: int) -> Answer:
        gate.wait()
        return ask(pool, *EXAMPLES[number % len(EXAMPLES)])

    with connect(address, CROWD) as pool, ThreadPoolExecutor(CROWD) as clients:
        return list(clients.map(come, range(CROWD)))


def milliseconds(answers: list[Answer], kind: str, share: float) -> float:
    """Give a quantile of the times of one kind of answer."""
    return round(1000 * float(np.quantile([a.seconds for a in answers if a.kind == kind], share)), 1)


def measure(address: str, seconds: float) -> dict[str, Any]:
    """Load the app at an address, the only child of this process."""
    (app,) = psutil.Process().children()
    work(address, 0, 3, 0)
    alone = work(address, 0, seconds / 40, 0)
    sizes = []
    with ThreadPoolExecutor(CLIENTS) as clients:
        parts = [clients.submit(work, address, number, seconds, RUBBISH) for number in range(CLIENTS)]
        while not all(part.done() for part in parts):
            sizes.append(app.memory_info().rss)
            time.sleep(1)
    answers = [answer for part in parts for answer in part.result()]
    minute = max(1, len(sizes) // 10)
    crowd = crowd_in(address)
    time.sleep(seconds / 10)
    after = work(address, 0, seconds / 40, 0)
    kinds = [answer.kind for answer in answers]
    crowd_kinds = [answer.kind for answer in crowd]
    return {
        "seconds": seconds,
        "clients": CLIENTS,
        "images": len(answers),
        "rubbish": kinds.count("refused"),
        "busy": kinds.count("busy"),
        "failed": kinds.count("failed"),
        "median_ms": milliseconds(answers, "right", 0.5),
        "p99_ms": milliseconds(answers, "right", 0.99),
        "first_tenth_mb": round(float(np.mean(sizes[:minute])) / MEGABYTE),
        "last_tenth_mb": round(float(np.mean(sizes[-minute:])) / MEGABYTE),
        "crowd": CROWD,
        "crowd_right": crowd_kinds.count("right"),
        "crowd_busy": crowd_kinds.count("busy"),
        "crowd_failed": crowd_kinds.count("failed"),
        "crowd_right_slowest_ms": milliseconds(crowd, "right", 1),
        "crowd_busy_slowest_ms": milliseconds(crowd, "busy", 1) if "busy" in crowd_kinds else None,
        "alone_before_ms": milliseconds(alone, "right", 0.5),
        "alone_after_ms": milliseconds(after, "right", 0.5),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long the 32 clients go on")
    seconds = parser.parse_args().seconds
    WORK.mkdir(parents=True, exist_ok=True)
    with serve(ROOT / "demo_app" / "app.py", WORK) as address:
        results = measure(address, seconds)
    write("load", results)
    for name, value in results.items():
        print(name, value)


if __name__ == "__main__":
    main()

"""The app over HTTP: start, latency for one client, images a second for 16, and 1,000 images in one call.

`python benchmarks/serving.py` starts the shipped app on 127.0.0.1, three times in turns with a process that
only imports its packages, reads its examples over plain HTTP, prints and writes `serving.json`. An image goes
in its request as a data URL, or is uploaded by one request and read by another (`upload_`). A client names
its session, as gradio's own clients do. They use urllib3, which is lean: server and clients share the cores.
"""

import base64
import io
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import urllib3
from PIL import Image
from runs import ROOT, WORK, serve, write

from training.synthetic import ALPHABET, draw_text, render

APP = ROOT / "demo_app" / "app.py"
EXAMPLES = sorted((ROOT / "demo_app" / "Examples").iterdir())
CLIENTS, SECONDS = 16, 20


def post(pool: urllib3.HTTPConnectionPool, path: str, **content: Any) -> Any:  # noqa: ANN401, JSON
    """Post to the app's API and return the answer."""
    answer = pool.request("POST", f"/gradio_api/{path}", **content)
    assert answer.status == 200, answer.data
    return answer.json()


def upload(pool: urllib3.HTTPConnectionPool, name: str, content: bytes) -> dict:
    """Upload a file and return what names it in calls."""
    (path,) = post(pool, "upload", fields={"files": (name, content)})
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def inline(_: urllib3.HTTPConnectionPool, __: str, content: bytes) -> dict:
    """Return what holds a file in a call itself."""
    url = "data:;base64," + base64.b64encode(content).decode()
    return {"url": url, "meta": {"_type": "gradio.FileData"}}


def measure(address: str) -> dict[str, float]:
    """Measure the app at an address."""
    files = [(path.name, path.read_bytes(), path.stem) for path in EXAMPLES]
    pool = urllib3.connection_from_url(address, maxsize=CLIENTS, timeout=120)

    def work(give: Callable[..., dict], client: int, seconds: float) -> list[float]:
        times, end = [], time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            name, content, text = files[len(times) % len(files)]
            body = {"data": [give(pool, name, content)], "session_hash": f"client {client}"}
            assert post(pool, "run/predict", json=body)["data"][0]["text"] == text
            times.append(time.perf_counter() - start)
        return times

    results = {"clients": CLIENTS}
    for name, give in (("", inline), ("upload_", upload)):
        work(give, 0, 3)
        alone = work(give, 0, SECONDS / 2)
        with ThreadPoolExecutor(CLIENTS) as clients:
            calls = [clients.submit(work, give, client, SECONDS) for client in range(CLIENTS)]
        together = [seconds for call in calls for seconds in call.result()]
        results |= {
            f"{name}one_client_median_ms": 1000 * float(np.median(alone)),
            f"{name}clients_images_per_second": len(together) / SECONDS,
            f"{name}clients_median_ms": 1000 * float(np.median(together)),
            f"{name}clients_99th_percentile_ms": 1000 * float(np.quantile(together, 0.99)),
        }
    rng = np.random.default_rng(0)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        for number in range(1000):
            page = io.BytesIO()
            text = draw_text("-----", list(ALPHABET), rng)
            Image.fromarray(render(text, rng)).save(page, "PNG")
            bundle.writestr(f"{number}_{text}.png", page.getvalue())
    start = time.perf_counter()
    body = {"data": [[upload(pool, "thousand.zip", archive.getvalue())]]}
    event = post(pool, "call/read_many", json=body)["event_id"]
    events = pool.request("GET", f"/gradio_api/call/read_many/{event}").data.decode()
    seconds = time.perf_counter() - start
    table, _ = json.loads(events.partition("event: complete\ndata: ")[2].partition("\n")[0])
    assert len(table["data"]) == 1000
    return results | {"thousand_images_seconds": seconds}


def main() -> None:
    """Measure, print and write."""
    WORK.mkdir(parents=True, exist_ok=True)
    imports, starts = [], []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import tensorflow, gradio"], check=True, capture_output=True)
        imports.append(time.perf_counter() - start)
        start = time.perf_counter()
        with serve(APP, WORK):
            starts.append(time.perf_counter() - start)
    with serve(APP, WORK) as address:
        results = measure(address)
    results["start_seconds"] = float(np.median(starts))
    results["start_ratio_to_imports"] = float(np.median(starts) / np.median(imports))
    write("serving", results)
    for name, value in results.items():
        print(name, value)


if __name__ == "__main__":
    main()

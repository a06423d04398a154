"""The app over HTTP: start, latency for one client, images a second for 16, and 1,000 images in one request.

`python benchmarks/serving.py` starts the shipped app on 127.0.0.1, three times in turns with a process that
only imports its packages, reads its examples over plain HTTP, prints and writes `serving.json`. An image is
the body of its request. The clients use urllib3, which is lean: server and clients share the cores.
"""

import io
import subprocess
import sys
import time
import zipfile
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
    answer = pool.request("POST", path, **content)
    assert answer.status == 200, answer.data
    return answer.json()


def measure(address: str) -> dict[str, float]:
    """Measure the app at an address."""
    files = [(path.read_bytes(), path.stem) for path in EXAMPLES]
    pool = urllib3.connection_from_url(address, maxsize=CLIENTS, timeout=120)

    def work(seconds: float) -> list[float]:
        times, end = [], time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            content, text = files[len(times) % len(files)]
            assert post(pool, "/read", body=content)["text"] == text
            times.append(time.perf_counter() - start)
        return times

    work(3)
    alone = work(SECONDS / 2)
    with ThreadPoolExecutor(CLIENTS) as clients:
        calls = [clients.submit(work, SECONDS) for _ in range(CLIENTS)]
    together = [seconds for call in calls for seconds in call.result()]
    rng = np.random.default_rng(0)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        for number in range(1000):
            page = io.BytesIO()
            text = draw_text("-----", list(ALPHABET), rng)
            Image.fromarray(render(text, rng)).save(page, "PNG")
            bundle.writestr(f"{number}_{text}.png", page.getvalue())
    start = time.perf_counter()
    rows = post(pool, "/read_many", fields={"images": ("thousand.zip", archive.getvalue())})
    seconds = time.perf_counter() - start
    assert len(rows) == 1000
    return {
        "clients": CLIENTS,
        "one_client_median_ms": 1000 * float(np.median(alone)),
        "clients_images_per_second": len(together) / SECONDS,
        "clients_median_ms": 1000 * float(np.median(together)),
        "clients_99th_percentile_ms": 1000 * float(np.quantile(together, 0.99)),
        "thousand_images_seconds": seconds,
    }


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

"""The app over HTTP: start, latency for one client, images a second for 16, and 1,000 images in one call.

`python benchmarks/serving.py` starts the shipped app on 127.0.0.1, three times in turns with a process that
only imports its packages, uploads and reads its examples over plain HTTP, prints and writes `serving.json`.
"""

import io
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
from runs import ROOT, WORK, definitions, serve, write

APP = ROOT / "demo_app" / "app.py"
EXAMPLES = sorted((ROOT / "demo_app" / "Examples").iterdir())
CLIENTS, SECONDS = 16, 20


def read(client: httpx.Client, name: str, content: bytes, endpoint: str) -> dict:
    """Upload a file and call an endpoint of the app with it; return its first output."""
    path = client.post("/gradio_api/upload", files={"files": (name, content)}).json()[0]
    file = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
    data = [file] if endpoint == "predict" else [[file]]
    answer = client.post(f"/gradio_api/run/{endpoint}", json={"data": data}, timeout=120)
    answer.raise_for_status()
    return answer.json()["data"][0]


def measure(address: str) -> dict[str, float]:
    """Measure the app at an address."""
    files = [(path.name, path.read_bytes(), path.stem) for path in EXAMPLES]

    def work(seconds: float) -> list[float]:
        times = []
        with httpx.Client(base_url=address, timeout=60) as client:
            end = time.perf_counter() + seconds
            while (start := time.perf_counter()) < end:
                name, content, text = files[len(times) % len(files)]
                assert read(client, name, content, "predict")["text"] == text
                times.append(time.perf_counter() - start)
        return times

    work(3)
    alone = work(SECONDS / 2)
    with ThreadPoolExecutor(CLIENTS) as pool:
        together = [seconds for times in pool.map(work, [SECONDS] * CLIENTS) for seconds in times]
    study = definitions()
    rng = np.random.default_rng(0)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        for number in range(1000):
            page = io.BytesIO()
            text = study.draw_text("-----", list(study.ALPHABET), rng)
            study.Image.fromarray(study.render(text, rng)).save(page, "PNG")
            bundle.writestr(f"{number}_{text}.png", page.getvalue())
    start = time.perf_counter()
    with httpx.Client(base_url=address, timeout=120) as client:
        table = read(client, "thousand.zip", archive.getvalue(), "read_many")
    seconds = time.perf_counter() - start
    assert len(table["data"]) == 1000
    return {
        "one_client_median_ms": 1000 * float(np.median(alone)),
        "clients": CLIENTS,
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

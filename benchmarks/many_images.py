"""Images that outgrow memory: the notebook on 1,000,000 of them, whose cache goes to disk.

`python benchmarks/many_images.py` makes them once, of 2,000 synthetic ones with noise, trains on them for two
epochs, watches the memory and writes `many_images.json`. It takes an hour, and about 40 GB on the disk.
"""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from PIL import Image
from runs import WORK, run, run_folder, write

from training.synthetic import ALPHABET, draw_text, render

COUNT, DIFFERENT = 1_000_000, 2_000
FOLDER = WORK / "many_images"


def make_images(folder: Path) -> None:
    """Write images and, in the end, `labels.csv`."""
    rng = np.random.default_rng(0)
    texts = [draw_text("-----", list(ALPHABET), rng) for _ in range(DIFFERENT)]
    pages = [render(text, rng) for text in texts]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(COUNT):
        page = pages[number % DIFFERENT]
        noisy = np.uint8(np.clip(page + rng.integers(-9, 10, page.shape, np.int16), 0, 255))
        Image.fromarray(noisy).save(folder / f"{number}.png", compress_level=1)
    names = [f"{number}.png" for number in range(COUNT)]
    labels = [texts[number % DIFFERENT] for number in range(COUNT)]
    pd.DataFrame({"filename": names, "label": labels}).to_csv(folder / "labels.csv", index=False)


def main() -> None:
    """Make the images, train, write what was seen."""
    if not (FOLDER / "labels.csv").exists():
        make_images(FOLDER)
    work = WORK / "many_images_work"
    for done in (work, run_folder("many-images")):
        shutil.rmtree(done, ignore_errors=True)
    parameters = {"DATASET": str(FOLDER), "WORK": str(work), "START": "random", "EPOCHS": 2}
    parameters |= {"SIZE": 0.25, "BATCH_SIZE": 64}
    rows, cached = [], False  # epochs done, bytes in memory
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, "many-images", **parameters)
        while not running.done():
            epochs = sum(len(log.read_text().splitlines()[1:]) for log in work.glob("runs/*/log.csv"))
            with suppress(psutil.NoSuchProcess):
                children = psutil.Process().children(recursive=True)
                rows.append((epochs, sum(child.memory_info().rss for child in children)))
            cached = cached or any(work.glob("cache_*/*"))
            time.sleep(2)
    results = running.result()
    assert cached, "all the images fit into memory; raise COUNT"
    memory = pd.DataFrame(rows, columns=["epochs_done", "bytes"]).groupby("epochs_done")["bytes"]
    memory = memory.agg(["first", "median", "max", "last"])
    print(memory / 1e9)
    print(f"{results['images']:,} images, epochs of {results['history']['seconds']} s")
    write(
        "many_images",
        {
            "images": results["images"],
            "seconds": results["notebook_seconds"],
            "epochs": results["history"]["seconds"],
            "bytes_by_epochs_done": memory.to_dict("index"),
        },
    )


if __name__ == "__main__":
    main()

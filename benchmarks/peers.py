"""What people use instead, on the test images of the first draw of `labels.py`.

Three ready-made readers, as PyPI or Debian has them: Tesseract, ddddocr, and RapidOCR with the recogniser of
PP-OCR that it ships. Their settings are chosen on up to 100 validation images. Two recipes, the tutorial's
(see `tutorial.py`) and fast-plate-ocr's, learn from the same labels as CustomOCR, on the sets for which they
were written: CAPTCHA Images v2 and number plates.

It needs an environment of its own: `pip install -r env/requirements.txt rapidocr ddddocr pytesseract
"fast-plate-ocr[train]"`, then `pip install "tensorflow-cpu<2.19" "onnx<1.19"`, because ONNX lacks an
operation that fast-plate-ocr's networks take from a newer TensorFlow. It also needs Debian's `tesseract-ocr`
and, as its argument, a network from the folder `models` of fast-plate-ocr's repository, as in
`python benchmarks/peers.py cct_s_v2.yaml`. It goes on where it stopped. At the end it reads with the models
that `labels.py` trains in its first draw, and writes `peers.json`.
"""

import importlib.util
import inspect
import json
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import labels
import numpy as np
from runs import WORK, run_folder, write, written

Reader = Callable[[str], str]  # from the path of an image to its text
SEED = labels.SEEDS[0]
PLATES = "photographed number plates"
CODES = ("CAPTCHA Images v2", PLATES)  # for which recipes were written
LEFT_OUT = ("drawn plates with two lines", "drawn words in Hebrew")  # the ready-made readers know neither
SLOTS = {"img_height": 64, "img_width": 192, "keep_aspect_ratio": True, "interpolation": "cubic"}


def tesseract(alphabet: str, mode: int, scale: int) -> Reader:
    """Tesseract, for a line, a word or a raw line, small letters enlarged, kept to an alphabet."""
    import pytesseract
    from PIL import Image, ImageOps

    whitelist = "tessedit_char_whitelist=" + alphabet + alphabet.swapcase()
    options = f"--psm {mode} -c {shlex.quote(whitelist)}"

    def read(path: str) -> str:
        image = ImageOps.scale(Image.open(path).convert("L"), scale)
        try:
            return pytesseract.image_to_string(image, config=options)
        except pytesseract.TesseractError:  # it crashes on some images
            return ""

    return read


def ddddocr(alphabet: str, beta: bool) -> Reader:
    """One of ddddocr's two models."""
    from ddddocr import DdddOcr

    reader = DdddOcr(show_ad=False, beta=beta)
    return lambda path: reader.classification(Path(path).read_bytes())


def rapidocr(alphabet: str) -> Reader:
    """The recogniser of PP-OCR alone, because the images hold nothing but a text."""
    from rapidocr import RapidOCR

    reader = RapidOCR(params={"Global.text_score": 0.0})
    return lambda path: "".join(reader(path, use_det=False, use_cls=False, use_rec=True).txts or [])


def fast_plate_ocr(alphabet: str, folder: Path) -> Reader:
    """What fast-plate-ocr has learnt."""
    from fast_plate_ocr import LicensePlateRecognizer

    (network,) = folder.rglob("best.onnx")
    reader = LicensePlateRecognizer(onnx_model_path=network, plate_config_path=folder / "plate.yaml")
    return lambda path: reader.run_one(path).plate


def custom_ocr(alphabet: str, folder: Path) -> Reader:
    """What CustomOCR has learnt."""
    from ocr import Recognizer

    reader = Recognizer(folder, "onnx")
    return lambda path: reader.read(path).text


READY_MADE: dict[Callable[..., Reader], list[tuple[Any, ...]]] = {  # with settings to choose from
    tesseract: [(mode, scale) for mode in (7, 8, 13) for scale in (1, 3)],
    ddddocr: [(False,), (True,)],
    rapidocr: [()],
}


def learn_plates(splits: dict[str, Any], alphabet: str, network: Path, folder: Path) -> None:
    """Train fast-plate-ocr for 150 epochs, its default, and export the best of them."""
    longest = max(rows["label"].str.len().max() for rows in splits.values())
    plate = SLOTS | {"max_plate_slots": int(longest), "alphabet": f"{alphabet}_", "pad_char": "_"}
    Path(folder, "plate.yaml").write_text(json.dumps(plate | {"image_color_mode": "rgb"}))
    for name in ("train", "validation"):
        rows = splits[name].rename(columns={"path": "image_path", "label": "plate_text"})
        # fast-plate-ocr puts the table's folder before each path.
        rows["image_path"] = [os.path.relpath(path, folder) for path in rows["image_path"]]
        rows[["image_path", "plate_text"]].to_csv(folder / f"{name}.csv", index=False)
    program, plate = Path(sys.executable).with_name("fast-plate-ocr"), ["--plate-config-file", "plate.yaml"]
    tables = ["--annotations", "train.csv", "--val-annotations", "validation.csv", "--output-dir", "run"]
    # With the default batch size and patience, training on so few images stops long before it has converged.
    small = ["--batch-size", "16", "--early-stopping-patience", "150", "--seed", str(SEED)]
    learn = [program, "train", "--model-config-file", network, *plate, *tables, *small]
    subprocess.run(learn, cwd=folder, check=True)
    (best,) = folder.rglob("best.keras")
    subprocess.run([program, "export", "--model", best, "--format", "onnx", *plate], cwd=folder, check=True)


def count_lines(function: Callable[..., Any]) -> int:
    """Count the lines of code in a function's body."""
    body = inspect.getsource(function).splitlines()[2:]
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in body)


def read_all(make: Callable[..., Reader], paths: list[str], *settings: Any) -> tuple[list[str], float, int]:  # noqa: ANN401
    """Read: the texts, the seconds without the start, the bytes of memory that this process took at most."""
    reader = make(*settings)
    reader(paths[0])
    start = time.perf_counter()
    texts = [reader(path) for path in paths]
    seconds = time.perf_counter() - start
    # The peak that `getrusage` gives would be at least that of the process which started this one.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return texts, seconds, 1024 * int(peak)


def measure(make: Callable[..., Reader], rows: Any, alphabet: str, *settings: Any) -> dict[str, Any]:  # noqa: ANN401
    """Let a reader read the images of a table in a process of its own, and compare with their labels."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        texts, seconds, peak = pool.submit(read_all, make, [*rows["path"]], alphabet, *settings).result()
    return {
        "reader": make.__name__,
        "settings": [*map(str, settings)] if make in READY_MADE else [],
        **compare(texts, rows, alphabet),
        "ms": 1000 * seconds / len(rows),
        "megabytes": None if make is tesseract else peak / 1e6,  # which has a process of its own
    }


def compare(texts: list[str], rows: Any, alphabet: str) -> dict[str, Any]:  # noqa: ANN401
    """Compare with labels: without spaces, what the alphabet lacks, and case where it has one of both."""
    from training.evaluation import character_error_rate
    from training.intervals import wilson_interval

    true, texts = ([keep_to(text, alphabet) for text in some] for some in (rows["label"], texts))
    right = sum(text == label for text, label in zip(texts, true, strict=True))
    return {
        "exact_match": right / len(rows),
        "interval": wilson_interval(right, len(rows)),
        "cer": character_error_rate(true, texts),
    }


def keep_to(text: str, alphabet: str) -> str:
    """Leave out spaces and what an alphabet lacks, after letters got the case in which it has them."""
    cased = (c if c in alphabet else c.swapcase() for c in text)
    return "".join(c for c in cased if c in alphabet and not c.isspace())


def count_parameters(network: Path) -> int:
    """Count the numbers in an ONNX file."""
    import onnx

    return sum(int(np.prod(part.dims)) for part in onnx.load(network).graph.initializer)


def package(name: str) -> Path:
    """Find the folder of a package."""
    return Path(importlib.util.find_spec(name).origin).parent


def read_splits(name: str) -> dict[str, Any]:
    """Split a set as for most labels in the first draw."""
    import tutorial  # TensorFlow would count in the memory of the engines' processes

    return tutorial.read_splits(**labels.SETS[name][0], LABELS=max(labels.SETS[name][1]), SEED=SEED)


def measure_peers(name: str, splits: dict[str, Any], network: Path, folder: Path) -> list[dict[str, Any]]:
    """Measure all others that can read a set; the folder gets what they learn."""
    import tutorial

    rows, alphabet = [], alphabet_of(splits)
    for make, every in READY_MADE.items():
        some = [measure(make, splits["validation"].head(100), alphabet, *one) for one in every]
        best = max(range(len(every)), key=lambda n, some=some: (some[n]["exact_match"], -some[n]["cer"]))
        rows.append(measure(make, splits["test"], alphabet, *every[best]))
    if name in CODES:
        plates = folder / "fast-plate-ocr"
        shutil.rmtree(plates, ignore_errors=True)  # of a run that was stopped
        plates.mkdir()
        start = time.perf_counter()
        learn_plates(splits, alphabet, network, plates)
        seconds = time.perf_counter() - start
        rows.append(measure(fast_plate_ocr, splits["test"], alphabet, plates) | {"seconds": seconds})
        rows[-1]["parameters"] = count_parameters(next(plates.rglob("best.onnx")))
        epochs, texts = tutorial.train(splits, SEED)
        row = compare(texts, splits["test"], alphabet)
        rows.append({"reader": "tutorial", "seconds": epochs[-1][0]} | row)
    return rows


def measure_ours(name: str, splits: dict[str, Any]) -> dict[str, Any]:
    """Read a set with the model of `labels.py`."""
    size = max(labels.SETS[name][1])
    folder = run_folder(labels.run_name(name, size, SEED))
    if not (folder / "report" / "results.json").exists():
        command = f"import labels; labels.run_with({name!r}, {size}, {SEED})"
        raise FileNotFoundError(
            f"There is no model in {folder}. Run this in the project's environment: {command}"
        )
    run = labels.run_with(name, size, SEED)
    row = measure(custom_ocr, splits["test"], alphabet_of(splits), folder / "app")
    seconds, facts = run["notebook_seconds"], {"test": len(splits["test"]), "labels": size}
    return row | facts | {"seconds": seconds, "parameters": run["parameters"]}


def alphabet_of(splits: dict[str, Any]) -> str:
    """List the characters of all labels."""
    return "".join(sorted({character for rows in splits.values() for character in "".join(rows["label"])}))


def main() -> None:
    """Measure all sets."""
    import pandas as pd

    from training.data import digest

    labels.draw_missing(WORK)
    network, rows = Path(sys.argv[1]).resolve(), []
    sets = {name: read_splits(name) for name in labels.SETS if name not in LEFT_OUT}
    earlier = written("peers").get("rows", [])
    for name, splits in sets.items():  # for hours; kept as long as the splits are the same
        key = f"{digest(pd.concat(splits.values()))[:12]} {network.stem}"
        folder = WORK / "peers" / key
        folder.mkdir(parents=True, exist_ok=True)
        done = folder / "peers.json"
        if not done.exists():
            others = [row for row in earlier if row.get("splits") == key]
            done.write_text(json.dumps(others or measure_peers(name, splits, network, folder)))
        for row in json.loads(done.read_text()):
            rows.append({"set": name, "splits": key} | row)
            print(f"{name}, {row['reader']}: {row['exact_match']:.1%}, CER {row['cer']:.1%}", flush=True)
    rows += [{"set": name} | measure_ours(name, splits) for name, splits in sets.items()]
    settings = {row["reader"]: row.get("settings") for row in rows if row["set"] == PLATES}
    beta = settings["ddddocr"] == ["True"]
    parameters = {
        "ddddocr": count_parameters(package("ddddocr") / ("common.onnx" if beta else "common_old.onnx")),
        "rapidocr": count_parameters(next((package("rapidocr") / "models").glob("*rec*.onnx"))),
    }
    readers = (custom_ocr, *READY_MADE, fast_plate_ocr)
    lines = {reader.__name__: count_lines(reader) for reader in readers}
    lines["fast_plate_ocr"] += count_lines(learn_plates)
    lines["custom_ocr"] += 1  # make study DATASET=...
    write("peers", {"rows": rows, "lines": lines, "parameters": parameters})


if __name__ == "__main__":
    main()

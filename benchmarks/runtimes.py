"""What reads the shipped model with how much: TensorFlow, onnxruntime and, as a peer, OpenVINO.

`python benchmarks/runtimes.py` measures each in processes of its own, in three rounds in turns, and writes
medians to `runtimes.json`. A peer that is not installed is left out.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import files, requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ROUNDS, MANY = 3, 1024
PACKAGES = {"tensorflow": "tensorflow-cpu", "onnx": "onnxruntime", "openvino": "openvino"}


def memory() -> float:
    """Read the memory that this process holds, in megabytes."""
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


def median_ms(function: Callable[[], object], times: int = 200) -> float:
    """Call a function; return the median milliseconds."""
    spans = []
    for _ in range(times):
        started = time.perf_counter()
        function()
        spans.append(1000 * (time.perf_counter() - started))
    return statistics.median(spans)


def measure(runtime: str) -> dict[str, float]:
    """Measure a runtime, in a process that has done nothing yet."""
    encoded = [path.read_bytes() for path in sorted((ROOT / "demo_app" / "Examples").iterdir())]
    started = time.perf_counter()
    import network
    from ocr import Recognizer

    if runtime == "openvino":
        network.load_network = load_openvino
        sys.modules["ocr"].load_network = load_openvino
    recognizer = Recognizer(runtime=runtime)
    reading = recognizer.read(encoded[0])
    row = {"start_s": time.perf_counter() - started, "loaded_mb": memory()}
    from images import open_image

    raw = open_image(encoded[0])[None]
    row["one_image_ms"] = median_ms(lambda: recognizer.read(encoded[0]))
    row["graph_ms"] = median_ms(lambda: recognizer._serve(raw))
    many = (encoded * (MANY // len(encoded) + 1))[:MANY]
    row["images_per_second"] = MANY / (median_ms(lambda: recognizer.read_batch(many), 5) / 1000)
    return row | {"end_mb": memory(), "confidence": reading.confidence}


def load_openvino(folder: Path, shape: Any, _: str) -> Callable:  # noqa: ANN401, the app's Shape
    """Load the ONNX file with OpenVINO."""
    import openvino
    from network import prepare

    model = openvino.Core().compile_model(folder / "ocr_model.onnx", "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    return lambda images: model(prepare(images, shape))[0]


def installed_mb(package: str) -> float:
    """Add up what a package and all that it requires take on the disk, in megabytes."""
    seen, left = set(), {package}
    while left:
        name = left.pop()
        seen.add(name)
        needed = map(Requirement, requires(name) or [])
        left |= {n.name for n in needed if not n.marker or n.marker.evaluate({"extra": ""})} - seen
    paths = {path.locate() for name in seen for path in files(name) or []}
    return sum(Path(path).stat().st_size for path in paths if Path(path).exists()) / 1e6


def main() -> None:
    """Measure all in turns; or one, as a process of its own."""
    if len(sys.argv) > 1:
        return print(json.dumps(measure(sys.argv[1])))
    import runs  # which takes memory that is not to count

    names = [name for name in PACKAGES if find_spec("onnxruntime" if name == "onnx" else name)]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    environment = os.environ | {"PYTHONPATH": str(ROOT / "demo_app")}
    for _ in range(ROUNDS):
        for name in names:
            command = [sys.executable, __file__, name]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            rows[name].append(json.loads(done.stdout))
            print(name, rows[name][-1], flush=True)
    results = {
        name: {key: statistics.median(row[key] for row in some) for key in some[0]}
        | {"installed_mb": installed_mb(PACKAGES[name])}
        for name, some in rows.items()
    }
    runs.write("runtimes", {"runtimes": results})


if __name__ == "__main__":
    main()

"""What reads the shipped model with how much: TensorFlow, onnxruntime and, as peers, OpenVINO and LiteRT.

`python benchmarks/runtimes.py` measures each in processes of its own, in three rounds in turns, and writes
medians to `runtimes.json`. A peer that is not installed (`openvino`, `ai-edge-litert`) is left out.
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
PACKAGES = {  # their modules and packages
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "onnx": ("onnxruntime", "onnxruntime"),
    "openvino": ("openvino", "openvino"),
    "litert": ("ai_edge_litert", "ai-edge-litert"),
}
LITERT = ROOT / "work" / "benchmarks" / "ocr_model.tflite"


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
    from ocr import Recognizer

    if peer := {"openvino": load_openvino, "litert": load_litert}.get(runtime):
        sys.modules["ocr"].load_network = peer
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


def convert_for_litert() -> None:
    """Write the network for LiteRT, which runs one image at a time and no loop: its LSTMs are unrolled."""
    import keras
    import tensorflow as tf

    extra = ROOT / "demo_app" / "ocr_model" / "assets.extra"
    network = keras.models.load_model(extra / "network.keras", compile=False)
    temperature = json.loads((ROOT / "docs" / "results.json").read_text("utf-8"))["temperature"]
    image = keras.Input(batch_shape=(1, *network.input.shape[1:]))

    def unroll(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Bidirectional):
            config["layer"]["config"]["unroll"] = config["backward_layer"]["config"]["unroll"] = True
        return layer.__class__.from_config(config)

    unrolled = keras.models.clone_model(network, input_tensors=image, clone_function=unroll)
    unrolled.set_weights(network.get_weights())
    archive = keras.export.ExportArchive()
    archive.track(unrolled)

    def serve(image: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(unrolled(image, training=False) / temperature)

    archive.add_endpoint("serve", serve, [tf.TensorSpec(image.shape, tf.float32)])
    saved = LITERT.with_suffix(".saved_model")
    archive.write_out(saved, verbose=False)
    LITERT.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert())


def load_litert(_: Path, shape: Any, __: str) -> Callable:  # noqa: ANN401, the app's Shape
    """Load the network with LiteRT."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter
    from network import prepare

    interpreter = Interpreter(str(LITERT), num_threads=1)
    run = interpreter.get_signature_runner()
    return lambda images: np.concatenate(
        [next(iter(run(image=one[None]).values())) for one in prepare(images, shape)]
    )


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

    names = [name for name, (module, _) in PACKAGES.items() if find_spec(module)]
    if "litert" in names:
        convert_for_litert()
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
        | {"installed_mb": installed_mb(PACKAGES[name][1])}
        for name, some in rows.items()
    }
    runs.write("runtimes", {"runtimes": results})


if __name__ == "__main__":
    main()

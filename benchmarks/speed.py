"""Reading speed of the shipped model, from encoded bytes to text and confidence, against the tutorial's way.

`python benchmarks/speed.py` measures both in turns: one image at a time, and 1,000 images in memory. It tells
where the time goes and how far the network is from what a matrix product reaches on this machine, and writes
`speed.json`.
"""

import timeit
from collections.abc import Callable

import keras
import numpy as np
import runs
import tensorflow as tf
import tutorial
from decoding import decode
from images import open_image
from ocr import Recognizer
from PIL import Image

from training.synthetic import ALPHABET, draw_text, render


def medians(times: int, **functions: Callable[[], object]) -> dict[str, float]:
    """Call each function ten times in its turn, after a turn to warm up; return the median milliseconds.

    Ten in a row, because a first call finds the data of the function before it in the processor's caches.
    """
    rows = [
        {name: timeit.repeat(function, number=1, repeat=10) for name, function in functions.items()}
        for _ in range(times + 1)
    ]
    return {name: 1000 * float(np.median([row[name] for row in rows[1:]])) for name in functions}


def multiply_adds(model: keras.Model) -> int:
    """Count the multiply-adds of convolutions, LSTMs and dense layers for one image."""
    count = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv1D | keras.layers.Conv2D):
            count += int(np.prod(layer.output.shape[1:-1])) * int(np.prod(layer.kernel.shape))
        elif isinstance(layer, keras.layers.Bidirectional):
            weights = [w for w in layer.weights if len(w.shape) == 2]
            count += layer.output.shape[1] * sum(int(np.prod(w.shape)) for w in weights)
        elif isinstance(layer, keras.layers.Dense):
            count += layer.output.shape[1] * int(np.prod(layer.kernel.shape))
    return count


def main() -> None:
    """Measure, print and write."""
    recognizer = Recognizer(runs.ROOT / "demo_app")
    rng = np.random.default_rng(0)
    texts = [draw_text("-----", list(ALPHABET), rng) for _ in range(1000)]
    files = [Image.fromarray(render(text, rng)) for text in texts]
    folder = runs.WORK / "speed"
    folder.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        file.convert("RGBA").save(folder / f"{number}.png")  # as the data set's files are
    images = [(folder / f"{number}.png").read_bytes() for number in range(1000)]
    num_to_char = dict(enumerate(ALPHABET, start=1))
    peer = tutorial.build_model(50, 200, len(ALPHABET) + 1)

    def read_with_tutorial(encoded: list[bytes]) -> list[str]:
        opened = np.stack([tf.io.decode_png(image, channels=1).numpy() for image in encoded])
        return tutorial.decode(peer.predict(tutorial.prepare(opened, 50, 200), verbose=0), num_to_char)

    one = medians(
        30, ours=lambda: recognizer.read(images[0]), tutorial=lambda: read_with_tutorial(images[:1])
    )
    many = medians(2, ours=lambda: recognizer.read_batch(images), tutorial=lambda: read_with_tutorial(images))
    batch = medians(5, ours=lambda: recognizer.read_batch(images[:64]))
    opened = open_image(images[0])[np.newaxis]
    frames = recognizer.read(images[0]).frames[np.newaxis]
    model = tf.saved_model.load(runs.ROOT / "demo_app" / "ocr_model")
    parts = medians(
        30,
        open=lambda: open_image(images[0]),
        graph=lambda: model.serve(opened).numpy(),
        decode=lambda: decode(frames, [5, 5]),
    )
    square = tf.random.normal([1024, 1024])
    product = medians(5, product=lambda: tf.matmul(square, square).numpy())["product"]
    network = runs.notebook_functions().build_model(recognizer.shape, len(ALPHABET) + 1)
    rate, floor_rate = (
        64
        * multiply_adds(network)
        / medians(5, g=lambda: model.serve(np.repeat(opened, 64, 0)).numpy())["g"],
        1024**3 / product,
    )
    results = {
        "one_image_ms": one,
        "one_image_ratio": one["ours"] / one["tutorial"],
        "thousand_images_per_second": {name: 1e6 / value for name, value in many.items()},
        "thousand_images_ratio": many["tutorial"] / many["ours"],
        "batch_of_64_ms_per_image": batch["ours"] / 64,
        "parts_of_one_image_ms": parts,
        "multiply_adds": {"ours": multiply_adds(network), "tutorial": multiply_adds(peer)},
        "parameters": {"ours": network.count_params(), "tutorial": peer.count_params()},
        "billion_multiply_adds_per_second": {
            "graph, batch of 64": rate / 1e6,
            "product of 1024": floor_rate / 1e6,
        },
        "bytes_of_demo_app": sum(
            p.stat().st_size for p in (runs.ROOT / "demo_app").rglob("*") if p.is_file()
        ),
    }
    runs.write("speed", results)
    for name, value in results.items():
        print(name, value)


if __name__ == "__main__":
    main()

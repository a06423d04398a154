"""demo_app/network.py: the input's shape, and the same readings with TensorFlow and with onnxruntime."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import ocr
import pytest
from images import open_image
from network import Shape, lay_side_by_side
from runs import ROOT

EXAMPLES = sorted((ROOT / "demo_app" / "Examples").iterdir())


@pytest.mark.parametrize("stretch", [1.0, 2.5])
@pytest.mark.parametrize("size", [(50, 200), (24, 72), (100, 100), (1, 1), (900, 20), (20, 4000)])
def test_images_fit_into_the_shape_with_their_aspect(size, stretch):
    shape = Shape(50, 200, 3, stretch)
    fitted = shape.fitted_size(*size)
    height, width = fitted
    assert height <= 50 and width <= 200 and (height == 50 or width == 200)
    if min(height, width) > 1:
        assert width / height == pytest.approx(size[1] * stretch / size[0], rel=0.6 / min(height, width))
    edges = shape.frame_edges(*size)
    assert len(edges) == shape.frames + 1 and edges[0] == 0 and (np.diff(edges) >= 0).all()
    assert edges[-1] == pytest.approx(size[1])


def test_two_lines_are_laid_side_by_side():
    rng = np.random.default_rng(0)
    image = np.full((2, 41, 60, 1), 255, np.uint8)
    lines = rng.integers(0, 200, (2, 2, 12, 60, 1), np.uint8)
    for number, start in enumerate((4, 7)):  # the gap lies elsewhere in each image
        image[number, start : start + 12] = lines[number, 0]
        image[number, start + 17 : start + 29] = lines[number, 1]
    shape = Shape(48, 200, 1, 1.0, 2)
    laid = lay_side_by_side(image)
    assert laid.shape == (2, *shape.line_size(41, 60), 1) and laid.dtype == np.uint8
    for number in range(2):
        for half in range(2):
            part = laid[number, :, half * 60 : half * 60 + 60]
            inked = part[(part < 255).any(axis=(1, 2))]
            np.testing.assert_array_equal(inked, lines[number, half])
    assert shape.frame_edges(41, 60)[-1] == 120


def test_both_runtimes_read_alike():
    pytest.importorskip("tensorflow")
    images = [open_image(path) for path in EXAMPLES]
    images += [image[:, :150] for image in images] + [np.repeat(images[0], 3, axis=0), images[1][::2, ::2]]
    heavy, light = (ocr.Recognizer(runtime=runtime).read_batch(images) for runtime in ("tensorflow", "onnx"))
    assert [reading.text for reading in light] == [reading.text for reading in heavy]
    for ours, theirs in zip(light, heavy, strict=True):
        # Resized pixels differ by up to 5e-5, which an undecided frame multiplies.
        np.testing.assert_allclose(ours.frames, theirs.frames, atol=5e-4)


def test_without_tensorflow_the_onnx_file_is_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr("network.find_spec", lambda name: None)
    assert ocr.Recognizer().read(EXAMPLES[0]).text == EXAMPLES[0].stem


@pytest.mark.parametrize(
    ("runtime", "words"), [("abacus", "RUNTIME is 'abacus'; set it to"), ("onnx", r"ocr_model\.onnx")]
)
def test_a_runtime_that_is_not_there_gets_a_sentence(runtime, words, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME", runtime)
    folder = shutil.copytree(ROOT / "demo_app", tmp_path / "app")
    (folder / "ocr_model.onnx").unlink()
    manifest = folder / ocr.MANIFEST
    manifest.write_text(json.dumps(ocr.describe_files(folder)))
    with pytest.raises(ocr.ModelError, match=words):
        ocr.Recognizer(folder)


@pytest.mark.parametrize("count", ["", "1,2", "max"])
def test_any_number_of_threads_may_be_asked_for(count, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", count)
    assert ocr.Recognizer(runtime="onnx").read(EXAMPLES[0]).text == EXAMPLES[0].stem


@pytest.mark.parametrize(
    ("found", "words"), [(True, "RUNTIME is onnx, but no"), (None, "Neither TensorFlow nor")]
)
def test_without_onnxruntime_a_sentence_says_what_to_install(found, words, monkeypatch):
    monkeypatch.setenv("RUNTIME", "onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("network.find_spec", lambda name: found)
    with pytest.raises(ocr.ModelError, match=f"{words} onnxruntime is installed"):
        ocr.Recognizer()


def test_without_tensorflow_a_sentence_says_so(monkeypatch):
    monkeypatch.setattr("network.find_spec", lambda name: None)
    with pytest.raises(ocr.ModelError, match="TensorFlow isn't installed"):
        ocr.Recognizer(runtime="tensorflow")


def test_the_program_of_the_page_reads_as_it_stands(tmp_path):
    page = (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    shutil.copy(ROOT / "demo_app" / "ocr_model.onnx", tmp_path)
    recognizer = ocr.Recognizer(runtime="onnx")
    for path in EXAMPLES[:3]:
        shutil.copy(path, tmp_path / "image.png")
        said = subprocess.check_output([sys.executable, "-c", program], cwd=tmp_path, text=True)
        text, share = said.split()
        reading = recognizer.read(path)
        assert text == reading.text and float(share) == pytest.approx(reading.confidence, abs=1e-3)

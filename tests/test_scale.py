"""demo_app/read_many.py: a folder and a Parquet file, read with Ray in one worker."""

import shutil

import ocr
import pandas as pd
import pytest
from runs import ROOT

ray = pytest.importorskip("ray", reason="demo_app/requirements-ray.txt is not installed")
import read_many  # noqa: E402, needs ray

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # about its own settings
EXAMPLES = sorted((ROOT / "demo_app" / "Examples").iterdir())


def test_at_least_one_worker_reads(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["read_many.py", "here", "--output", "there", "--workers", "0"])
    with pytest.raises(SystemExit):
        read_many.main()
    assert "--workers must be at least 1" in capsys.readouterr().err


@pytest.fixture
def run(monkeypatch, capsys):
    """The command as a function of its arguments, which returns its exit status and what it says last."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["read_many.py", *map(str, arguments), "--workers", "1"])
        try:
            return read_many.main(), capsys.readouterr().out.strip().splitlines()[-1]
        except SystemExit as error:
            return error.code, capsys.readouterr().err.strip().splitlines()[-1]
        finally:
            ray.shutdown()

    return run


def test_a_folder_is_read_once(run, tmp_path):
    folder, output = tmp_path / "images", tmp_path / "output"
    folder.mkdir()
    for path in EXAMPLES[:4]:
        shutil.copy(path, folder)
    (folder / "broken.png").write_bytes(b"no image")
    assert run(folder, "--output", output) == (
        1,
        "5 images read, 1 of them with an error; 0 had been read before.",
    )
    (output / ".unfinished").write_bytes(b"PAR1 and no more")  # as a killed command leaves it
    assert run(folder, "--output", output) == (
        0,
        "0 images read, 0 of them with an error; 5 had been read before.",
    )
    table = pd.read_parquet(output).set_index("path")
    assert sorted(table.index) == sorted(str(path) for path in folder.iterdir())
    broken = table.loc[str(folder / "broken.png")]
    assert "not an image" in broken["error"] and broken.drop("error").isna().all()
    for path, reading in zip(EXAMPLES, ocr.Recognizer().read_batch(EXAMPLES[:4]), strict=False):
        row = table.loc[str(folder / path.name)]
        assert row["text"] == reading.text and row["sure"] == reading.sure
        assert row["confidence"] == pytest.approx(reading.confidence, abs=1e-4) and pd.isna(row["error"])


def test_a_parquet_file_goes_on_into_csv(run, tmp_path):
    names = ['a "quoted"\nname, broken', "NA", *(path.name for path in EXAMPLES[:3])]
    images = [b"no image", *(path.read_bytes() for path in EXAMPLES[:4])]
    source, output = tmp_path / "images.parquet", tmp_path / "output"
    pd.DataFrame({"path": names, "bytes": images}).to_parquet(source)
    output.mkdir()
    written = [
        {"path": names[0], "error": "broken"},
        {"path": "NA", "text": "x", "confidence": 0.5, "sure": False},
    ]
    read_many.write_parts(
        [read_many.pa.Table.from_pylist(written, read_many.SCHEMA)], output, "csv", read_many.tqdm()
    )
    assert run(source, "--output", output, "--format", "csv") == (
        0,
        "3 images read, 0 of them with an error; 2 had been read before.",
    )
    table = pd.concat(pd.read_csv(part, keep_default_na=False) for part in output.iterdir()).set_index("path")
    assert sorted(table.index) == sorted(names) and table.loc[names[0], "error"] == "broken"
    assert [table.loc[path.name, "text"] for path in EXAMPLES[:3]] == [path.stem for path in EXAMPLES[1:4]]


def test_bad_sources_get_a_sentence(run, tmp_path):
    pd.DataFrame({"path": ["a", "a"], "bytes": [b"", b""]}).to_parquet(tmp_path / "twice.parquet")
    pd.DataFrame({"image": [b""]}).to_parquet(tmp_path / "other.parquet")
    (tmp_path / "no.parquet").write_bytes(b"no")
    (tmp_path / "out").mkdir()
    none = read_many.find_written(tmp_path / "out", "csv")
    for names, words in [
        (["twice.parquet"], "a is in more than one row"),
        (["other.parquet"], "no column bytes and no path"),
        (["no.parquet"], "can't be read"),
        (["other.parquet", "a.png"], "one after the other"),
        (["out"], "no .png"),
    ]:
        with pytest.raises(read_many.SourceError, match=words):
            read_many.open_sources([tmp_path / name for name in names], none)
    (tmp_path / "out" / "1.parquet").touch()
    status, said = run(tmp_path, "--output", tmp_path / "out", "--format", "csv")
    assert status == 1 and "--format parquet" in said

"""training/locking.py: what processes that share a folder do to each other, and what a killed one leaves."""

import os
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf
from runs import ROOT

from training import fitting
from training.locking import hold, temporary_folder

RUN = """
import sys, time
from pathlib import Path
import tensorflow as tf
from training import fitting

work = Path(sys.argv[1])
run = fitting.open_run(work / "runs", "same")
(run / "log.csv").touch()
cached = fitting.cache(tf.data.Dataset.range(9).map(lambda number: (number, number)), work, memory=1)
print(len(list(cached)), flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_run_shares_its_folder_with_no_other_process(tmp_path, monkeypatch):
    """And what a killed one leaves is no obstacle, and does not stay."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "demo_app")])}
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    data = tf.data.Dataset.range(9).map(lambda number: (number, number))
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"9\n"
            with pytest.raises(
                RuntimeError, match=rf"^Process {process.pid} on .+ is training in .+ WORK"
            ) as caught:
                fitting.open_run(tmp_path / "runs", "same")
            assert "\n" not in str(caught.value)
            other = fitting.open_run(tmp_path / "runs", "other")
            assert fitting.open_run(tmp_path / "runs", "other") == other
            with monkeypatch.context() as patch:  # another machine of a cluster uses the chief's
                task = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
                patch.setenv("TF_CONFIG", task)
                assert (fitting.open_run(tmp_path / "runs", "same") / "log.csv").exists()
            (theirs,) = tmp_path.glob("cache_*")
            ours = fitting.cache(data, tmp_path, memory=1)
            assert len(list(ours)) == 9 and len(list(tmp_path.glob("cache_*"))) == 2 and theirs.exists()
        finally:
            process.kill()
    run = fitting.open_run(tmp_path / "runs", "same")
    assert not (run / "log.csv").exists()  # without a backup, it begins anew
    assert theirs.exists()
    again = fitting.cache(data, tmp_path, memory=1)
    assert not theirs.exists() and len(list(tmp_path.glob("cache_*"))) == 2
    assert len(list(ours)) == len(list(again)) == 9
    assert not hold(run)
    lock = hold(other)  # a process is in one run
    assert lock
    lock.release()


def test_a_temporary_folder_goes_at_the_end_and_others_stay(tmp_path):
    (tmp_path / "some_file").touch()
    with pytest.raises(KeyError), temporary_folder(tmp_path / "new", "some_") as outer:
        (outer / "file").touch()
        with temporary_folder(tmp_path / "new", "some_") as inner:
            (inner / "file").touch()
            assert outer.exists() and outer != inner
        assert not inner.exists()
        shutil.copytree(outer, outer.with_name("some_ of another machine"))
        raise KeyError
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["some_ of another machine"]

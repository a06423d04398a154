"""Several devices and several machines that train one network; here each machine is a process."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machine import build
from runs import ROOT, cluster

from training import machines

LIMIT = 240  # seconds
EPOCHS = 6
MACHINE = Path(__file__).with_name("machine.py")
PATH = os.pathsep.join(str(ROOT / folder) for folder in ("", "demo_app", "benchmarks", "tests"))


def test_one_device_trains_the_network_itself(tmp_path):
    model = build()
    model._initial_epoch = 3  # as if BackupAndRestore had skipped epochs
    with machines.share(model, tmp_path, 32) as shared:
        assert shared == (model, tmp_path)
    assert model._initial_epoch is None


@pytest.mark.parametrize(
    ("jobs", "chiefs"),
    [
        ({}, []),
        ({"worker": ["a:1", "b:1"]}, [("worker", 0)]),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, [("chief", 0)]),
    ],
)
def test_one_machine_is_the_chief(jobs, chiefs, monkeypatch):
    assert machines.is_chief()
    for kind, addresses in jobs.items():
        for index in range(len(addresses)):
            task = {"cluster": jobs, "task": {"type": kind, "index": index}}
            monkeypatch.setenv("TF_CONFIG", json.dumps(task))
            assert machines.is_chief() == ((kind, index) in chiefs)


TWO_DEVICES = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import json
from pathlib import Path
from machine import build, draw, train
from runs import notebook_functions
study = notebook_functions()
try:
    study.fit(build(), draw(9), draw(9), 1, Path(sys.argv[1]), batch_size=3)
except ValueError as error:
    print(error)
print(json.dumps(train(study, Path(sys.argv[1]), 3)))
"""


@pytest.mark.slow
def test_two_devices_train_one_network(tmp_path):
    """As several GPUs would; here a processor stands for both."""
    command = [sys.executable, "-c", TWO_DEVICES, tmp_path]
    said = subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": PATH}, stdout=subprocess.PIPE)
    refusal, *_, last = said.stdout.decode().splitlines()
    assert refusal == "2 devices share each batch. Set BATCH_SIZE to a multiple of that."
    history = json.loads(last)
    assert history["epoch"] == [0, 1, 2] and history["loss"][2] < 0.97 * history["loss"][0]
    assert history["after"] == pytest.approx(history["val_loss"][2], rel=1e-3)


@pytest.fixture
def start(tmp_path):
    """A function that starts so many machines, which write into `tmp_path`; at the end they are stopped."""
    started = []

    def start(count, runs):
        machines = []
        for place in cluster(count) if count > 1 else [{}]:
            name = tmp_path / str(len(started))
            command = [sys.executable, MACHINE, tmp_path / runs, str(EPOCHS)]
            environment = os.environ | place | {"PYTHONPATH": PATH}
            with name.with_suffix(".out").open("w") as out, name.with_suffix(".err").open("w") as err:
                process = subprocess.Popen(command, env=environment, stdout=out, stderr=err)
            machines.append((process, name))
            started.append(process)
        return machines

    yield start
    for process in started:
        process.kill()
        process.wait()


def finish(process, name):
    """Wait for a machine; return what it printed in the end."""
    assert process.wait(LIMIT) == 0, name.with_suffix(".err").read_text()
    return json.loads(name.with_suffix(".out").read_text().splitlines()[-1])


def count_epochs(runs):
    return sum(len(log.read_text().splitlines()) - 1 for log in runs.glob("*/log.csv"))


@pytest.mark.slow
def test_two_machines_learn_what_one_learns_though_each_is_lost_once(start, tmp_path):
    """The first machine is the chief."""
    (alone,) = start(1, "alone")
    done = 0
    for lost in (1, 0):
        pair = start(2, "together")
        deadline = time.monotonic() + LIMIT
        while count_epochs(tmp_path / "together") <= done:
            assert time.monotonic() < deadline and pair[lost][0].poll() is None
            time.sleep(0.05)
        pair[lost][0].kill()
        process, name = pair[1 - lost]
        assert process.wait(LIMIT) != 0
        assert "ConnectionError: A machine was lost or has failed" in name.with_suffix(".err").read_text()
        done = count_epochs(tmp_path / "together")
        assert done < EPOCHS
    alone = finish(*alone)
    assert alone["val_loss"][-1] < 0.97 * alone["val_loss"][0]
    for machine in start(2, "together"):
        history = finish(*machine)
        assert history["epoch"] == list(range(EPOCHS))
        assert history["loss"] == pytest.approx(alone["loss"], rel=1e-2)  # of images in another order
        assert history["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-3)
        assert history["after"] == pytest.approx(alone["after"], rel=1e-3)

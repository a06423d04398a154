"""Several machines that train one network; here each is a process."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from runs import ROOT, cluster

LIMIT = 240  # seconds


@pytest.fixture(scope="module")
def drawn(study, tmp_path_factory):
    """A folder of drawn images, of which two don't fit into a batch of 64."""
    return study.draw_dataset(66, 0, tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def start(tmp_path, drawn):
    """A function that starts so many machines, which write into `tmp_path`; at the end they are stopped."""
    started = []

    def start(count, run, epochs):
        path = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT / "demo_app")])
        machines = []
        for index, place in enumerate(cluster(count) if count > 1 else [{}]):
            environment = os.environ | place | {"PYTHONPATH": path}
            command = [sys.executable, Path(__file__).with_name("machine.py"), drawn, tmp_path / run]
            with (tmp_path / f"{index}.out").open("w") as out, (tmp_path / f"{index}.err").open("w") as err:
                machines.append(
                    subprocess.Popen([*command, str(epochs)], env=environment, stdout=out, stderr=err)
                )
        started.extend(machines)
        return machines

    yield start
    for machine in started:
        machine.kill()
        machine.wait()


def finish(machines, folder):
    """Wait for machines; return what each printed in the end."""
    for index, machine in enumerate(machines):
        assert machine.wait(LIMIT) == 0, (folder / f"{index}.err").read_text()
    outputs = [(folder / f"{index}.out").read_text() for index in range(len(machines))]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def test_two_machines_learn_what_one_learns(start, tmp_path):
    (alone,) = finish(start(1, "alone", 3), tmp_path)
    assert alone["val_loss"][-1] < 0.97 * alone["val_loss"][0]
    for history in finish(start(2, "together", 3), tmp_path):
        assert history["loss"] == pytest.approx(alone["loss"], rel=1e-3)
        assert history["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-3)
        assert history["after"] == pytest.approx(alone["after"], rel=1e-3)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_machine_ends_the_run_which_goes_on(start, tmp_path, lost):
    """The first machine is the chief."""
    machines = start(2, "run", 6)
    deadline = time.monotonic() + LIMIT
    while not (tmp_path / "run" / "backup" / "training_metadata.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    machines[lost].kill()
    assert machines[1 - lost].wait(LIMIT) != 0
    said = (tmp_path / f"{1 - lost}.err").read_text()
    assert "ConnectionError: A machine was lost or has failed" in said
    assert len(pd.read_csv(tmp_path / "run" / "log.csv")) < 6
    for history in finish(start(2, "run", 6), tmp_path):
        assert history["epoch"] == list(range(6))

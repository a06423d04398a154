"""Several machines that train one network; here each is a process."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from runs import ROOT, free_port

LIMIT = 240  # seconds


@pytest.fixture(scope="module")
def drawn(study, tmp_path_factory):
    """A folder of drawn images, which the last batch of 32 or of 64 is not full of."""
    return study.draw_dataset(75, 0, tmp_path_factory.mktemp("drawn"))


def start(count, *arguments):
    """Start so many machines."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(count)]
    path = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT / "demo_app")])
    machines = []
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"PYTHONPATH": path}
        environment |= {"TF_CONFIG": json.dumps(config)} if count > 1 else {}
        command = [sys.executable, Path(__file__).with_name("machine.py"), *map(str, arguments)]
        machines.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    return machines


def finish(machines):
    """Wait for machines; return what each printed in the end."""
    outputs = [machine.communicate(timeout=LIMIT) for machine in machines]
    assert [machine.returncode for machine in machines] == [0] * len(machines), outputs
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


def test_two_machines_learn_what_one_learns(drawn, tmp_path):
    (alone,) = finish(start(1, drawn, tmp_path / "alone", 3))
    for history in finish(start(2, drawn, tmp_path / "together", 3)):
        assert history["loss"] == pytest.approx(alone["loss"], rel=1e-3)
        assert history["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-3)
        assert history["after"] == pytest.approx(alone["after"], rel=1e-3)


def test_a_lost_machine_ends_the_run_which_goes_on(drawn, tmp_path):
    run = tmp_path / "run"
    machines = start(2, drawn, run, 6)
    deadline = time.monotonic() + LIMIT
    while not (run / "backup" / "training_metadata.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    machines[1].kill()
    _, said = machines[0].communicate(timeout=LIMIT)
    machines[1].communicate()
    assert machines[0].returncode == 1
    assert "ConnectionError: The machines have lost one of them" in said
    assert len(pd.read_csv(run / "log.csv")) < 6
    for history in finish(start(2, drawn, run, 6)):
        assert history["epoch"] == list(range(6))

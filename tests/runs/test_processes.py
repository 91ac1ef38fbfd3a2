"""Runs on several processes of this machine: the same numbers, one writer, one end."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import experiments
from experiments.mnist_rnn import PRESETS
from jaxrnn.runs.command_line import configured
from tests.conftest import mnist_rnn


@pytest.mark.program
@pytest.mark.parametrize(
    "scenarios",
    [
        ("launchers", "two_are_one", "weights"),
        ("no_others", "finished", "swept"),  # and stopped_and_resumed in make kills
    ],
)
def test_several_processes(scenarios, tmp_path):
    command = [sys.executable, "-m", "tests.several_processes", str(tmp_path), *scenarios]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--process 0", "--coordinator, --processes and --process need --distributed"),
        ("--distributed --processes 2", "--processes and --process together, or none"),
        (
            "--distributed --coordinator a:1 --processes 2 --process 2",
            "--process must be between 0 and 1; got 2",
        ),
        (
            "--distributed --coordinator nowhere --processes 2 --process 0",
            "--coordinator must be host:port; got 'nowhere'",
        ),
        ("--heartbeat 0", "--runtime.heartbeat: must be at least 1; got 0"),
        ("--workers -1", "--runtime.workers: must be at least 0; got -1"),
        ("--steps-per-epoch 3", "--steps-per-epoch is an option of streams; use --stream"),
        ("--stream --steps-per-epoch 0", "--trainer.steps-per-epoch: must be at least 1"),
        (
            "--stream --steps-per-epoch 5 --batch-size 64",
            "60000 examples leave a batch of 32; use drop_remainder",
        ),
    ],
)
def test_bad_input(options, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        mnist_rnn("fast", *options.split())
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_kubernetes_manifest_matches_the_command_line():
    """As many processes as pods, the first pod's name as JobSet makes it, options that parse."""
    path = Path(experiments.__file__).with_name("jobset.yaml")
    jobset = yaml.safe_load(path.read_text())
    (job,) = jobset["spec"]["replicatedJobs"]
    pods = job["template"]["spec"]
    (container,) = pods["template"]["spec"]["containers"]
    words = [word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in container["args"]]
    experiment, _ = configured(PRESETS[words[0]], words[1:])
    experiment.check()
    runtime = experiment.runtime
    assert container["command"] == ["python", "-m", "experiments.mnist_rnn"]
    assert runtime.processes == pods["parallelism"] == pods["completions"]
    assert experiment.trainer.batch_size % runtime.processes == 0
    name = jobset["metadata"]["name"]
    assert runtime.coordinator.startswith(f"{name}-{job['name']}-0-0.{name}:")
    assert any(str(runtime.workdir).startswith(m["mountPath"]) for m in container["volumeMounts"])
    claimed = {volume["name"] for volume in pods["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == claimed

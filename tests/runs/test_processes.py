"""Runs on several processes of this machine: the same numbers, one writer, one end."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import experiments
from experiments.mnist_rnn import PRESETS
from jaxrnn.runs.command_line import configured


@pytest.mark.program
def test_several_processes(tmp_path):
    scenarios = ("two_are_one", "swept", "weights", "launchers", "no_others")
    command = [sys.executable, "-m", "tests.several_processes", str(tmp_path), *scenarios]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr  # stopped_and_resumed: make kills


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

"""Runs on several processes of this machine: the same numbers, one writer, one end."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import experiments
from experiments.configuration import check
from experiments.mnist_rnn import main, parse


def python(*arguments, timeout=400):
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "scenario",
    ["four_are_one", "stopped_and_resumed", "many_networks", "launchers", "no_others"],
)
def test_several_processes(scenario, tmp_path):
    python("tests.several_processes", scenario, tmp_path)


def test_a_killed_process_ends_the_others_and_the_run_goes_on():
    said = python("tests.kill_runs", 1, 3, 2)
    assert said.startswith("1 of 1 killed runs ended with the same bits")


def arguments(**told):
    return [word for name, value in told.items() for word in (f"--{name}", str(value))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--process", "0"], "--coordinator, --processes and --process need --distributed"),
        (
            ["--distributed", "--processes", "2"],
            "--coordinator, --processes and --process are given together, or none",
        ),
        (
            ["--distributed", *arguments(coordinator="a:1", processes=2, process=2)],
            "--process must be between 0 and 1; got 2",
        ),
        (
            ["--distributed", *arguments(coordinator="nowhere", processes=2, process=0)],
            "--coordinator must be host:port; got 'nowhere'",
        ),
        (["--heartbeat", "0"], "--workers must be at least 0 and --heartbeat at least 1"),
        (["--steps-per-epoch", "3"], "--workers and --steps-per-epoch are of a stream"),
        (["--stream", "--seeds", "2"], "--stream trains one network"),
        (["--stream", "--steps-per-epoch", "0"], "--steps-per-epoch must be at least 1"),
        (
            ["--stream", "--steps-per-epoch", "5", "--batch-size", "64"],
            "60000 examples leave one of 32; use --drop-remainder",
        ),
    ],
)
def test_bad_input(options, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["fast", *options])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_the_kubernetes_manifest_says_what_the_command_line_takes():
    """As many processes as pods, the first pod's name as JobSet makes it, options that parse."""
    path = Path(experiments.__file__).with_name("jobset.yaml")
    jobset = yaml.safe_load(path.read_text())
    (job,) = jobset["spec"]["replicatedJobs"]
    pods = job["template"]["spec"]
    (container,) = pods["template"]["spec"]["containers"]
    words = [word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in container["args"]]
    config = parse(words)
    check(config)
    assert container["command"] == ["python", "-m", "experiments.mnist_rnn"]
    assert config.processes == pods["parallelism"] == pods["completions"]
    assert config.batch_size % config.processes == 0
    name = jobset["metadata"]["name"]
    assert config.coordinator.startswith(f"{name}-{job['name']}-0-0.{name}:")
    assert any(str(config.workdir).startswith(m["mountPath"]) for m in container["volumeMounts"])
    claimed = {volume["name"] for volume in pods["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == claimed

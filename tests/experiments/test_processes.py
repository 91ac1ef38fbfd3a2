"""Runs on several processes of this machine: the same numbers, one writer, one end."""

import subprocess
import sys

import pytest


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
    said = python("tests.kill_runs", 2, 3, 2)
    assert said.startswith("2 of 2 killed runs ended with the same bits")


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
    ],
)
def test_bad_input(options, message, capsys):
    from experiments.mnist_rnn import main

    with pytest.raises(SystemExit) as exit_:
        main(["fast", *options])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err

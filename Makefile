# make mnist   build .venv, install, train on real MNIST
# make test    build .venv, install, run every check and test
# make kills   kill 200 runs at random moments, resume each, compare bit for bit, then one process
#              of two, 20 times: half an hour
# make fuzz    the readers of foreign files against 100,000 inputs each: half an hour

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: mnist test kills fuzz clean

mnist: $(INSTALLED)
	$(BIN)/python -m experiments.mnist_rnn

test: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest

kills: $(INSTALLED)
	$(BIN)/python -m tests.kill_runs 200
	$(BIN)/python -m tests.kill_runs 20 0 2

fuzz: $(INSTALLED)
	$(BIN)/pytest --hypothesis-profile long -k fuzz

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

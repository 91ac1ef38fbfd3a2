# make mnist   create .venv, install, train on real MNIST
# make test    create .venv, install, run every check and test
# make kills   kill 200 runs at random moments, resume each and compare bit for bit; then kill one
#              process of two, 20 times (half an hour)
# make fuzz    test the readers of IDX, JSON and configurations with 100,000 inputs each

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

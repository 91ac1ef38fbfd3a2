# make mnist       create .venv, install, train on real MNIST
# make test        create .venv, install, run every check and test; pytest -m "not program" skips
#                  the tests that start programs
# make notebooks   run the notebooks and store their outputs
# make page        train a network, write its web page and draw on it in Chromium (Debian's package)
# make docs        build the site from README, docstrings and notebooks, in site/; a broken link or an
#                  undocumented public name is an error
# make kills       kill runs at random moments, resume them and compare bit for bit; also a run of
#                  two processes, and sweeps (half an hour)
# make fuzz        fuzz the readers of IDX, JSON and configurations, 100,000 inputs each

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
OPTIONS := --quiet --constraint constraints.txt --editable
INSTALL = $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python $(OPTIONS) $(1) \
	|| $(BIN)/python -m pip install $(OPTIONS) $(1)

.PHONY: mnist test notebooks page docs kills fuzz clean

mnist: .venv/.installed
	$(BIN)/python -m experiments.mnist_rnn

test: .venv/.installed-tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pytest  # mypy is one of the tests

notebooks: .venv/.installed-tests
	$(BIN)/python -m tests.run_notebooks

page: .venv/.installed-tests
	$(call INSTALL,'.[page]')
	$(BIN)/python -m experiments.mnist_rnn --workdir runs/page
	$(BIN)/python -m tests.browse_page runs/page runs/page

# With --quiet, MkDocs would not treat warnings as errors.
docs: .venv/.installed
	$(call INSTALL,'.[docs]')
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo open site/index.html, or: $(BIN)/python -m http.server --directory site

kills: .venv/.installed-tests
	$(BIN)/python -m tests.kill_runs 200
	$(BIN)/python -m tests.kill_runs 20 0 2
	$(BIN)/python -m tests.several_processes "$$(mktemp -d)" stopped_and_resumed
	$(BIN)/python -m tests.kill_sweeps

fuzz: .venv/.installed-tests
	$(BIN)/pytest --hypothesis-profile long -k fuzz

# An environment without its marker file was only partly installed, so it is created again.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv --clear .venv
	-$(BIN)/python -m pip install --quiet --constraint constraints.txt uv  # much faster than pip
	$(call INSTALL,.)
	touch $@

.venv/.installed-tests: .venv/.installed
	rm .venv/.installed
	$(call INSTALL,'.[test]')
	touch .venv/.installed $@

clean:
	rm -rf .venv site .mypy_cache .pytest_cache .ruff_cache .hypothesis

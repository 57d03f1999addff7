# synthclone: `make help` lists what there is. Everything installs into .venv, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## create .venv with pinned packages, and fetch WordNet

$(STAMP): setup.py pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "synthclone needs Python 3.11 or newer; run make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# PyTorch alone from its own index, whose CPU build spares 3 GB of CUDA; where that cannot be reached, the usual one.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --retries 1 \
		--extra-index-url https://download.pytorch.org/whl/cpu torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cpu,dev,quality]'
	$(BIN)/python gen/wordnet.py
	touch $@

quickstart: $(STAMP)  ## clone the digits, train on the clone, score it on real digits: about ten minutes on two cores
	$(BIN)/synthclone quickstart

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest

check: $(STAMP)  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy engines export gen train eval synthclone

clean:  ## remove what was made, but not .venv
	rm -rf artifacts build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

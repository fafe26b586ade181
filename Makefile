# `make book` and `make test` do everything, the environment included.
PYTHON ?= python3
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
BIN = .venv/bin

.PHONY: environment book test check lock clean

# No lock is taken: every page and record is written whole or not at all, so a killed run leaves nothing to unlock.
book: .venv/ready
	$(BIN)/python -m snakemake --cores $(CORES) --nolock --rerun-incomplete --keep-going --quiet all
	@echo "The book is at $(CURDIR)/_build/html/index.html"

test: .venv/ready
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

# What a contribution is checked for besides its tests: style, types, notebooks without outputs.
check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

environment: .venv/ready

.venv/ready: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[dev]'
	touch $@

# The lock: what a fresh environment gets from pyproject.toml, without the build tag of a torch wheel. What is locked
# keeps its version; `make lock FRESH=1` takes today's versions of everything.
lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet $(if $(FRESH),,--constraint requirements.lock) --editable '.[dev]'
	.venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > requirements.lock
	rm -rf .venv-lock

# Takes away what a run made; the environment and the weights stay.
clean:
	rm -rf _build book/executed data/results/bestiary data/results/.done data/cache .snakemake

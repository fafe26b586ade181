# `make book` and `make test` do everything, the environment included.
PYTHON ?= python3
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
BIN = .venv/bin
DATASET ?= bestiary
MODELS ?=
PAGES ?=
WEIGHTS ?= small
REHEARSAL_DATA ?= data/cache/rehearsal

.PHONY: environment book plan rehearsal rehearsal-data test check lock clean

# No lock is taken: every page and record is written whole or not at all, so a killed run leaves nothing to unlock.
SNAKEMAKE = $(BIN)/python -m snakemake --cores $(CORES) --nolock --rerun-incomplete --keep-going --quiet all --config

# The miniature's book; `make book DATASET=imagenet [MODELS=ViT-B-16,RN50]` is the papers' scale, into _build/imagenet.
book: .venv/ready
	$(SNAKEMAKE) dataset='$(DATASET)' models='$(MODELS)'
	@echo "The book is at $(CURDIR)/_build/$(if $(filter bestiary,$(DATASET)),,$(DATASET)/_build/)html/index.html"

# What `make book DATASET=imagenet` needs, and what of it is there; nothing is downloaded.
plan: .venv/ready
	$(BIN)/python -m lib.book.plan $(DATASET) --models '$(MODELS)'

# The papers' scale on drawn images and with random weights: that every page runs. PAGES=table3,kurtosis is a part of it.
rehearsal: rehearsal-data
	COMPANION_DATASETS='$(REHEARSAL_DATA)' $(SNAKEMAKE) dataset=imagenet weights=$(WEIGHTS) pages='$(PAGES)'
	@echo "The rehearsal's book is at $(CURDIR)/_build/rehearsal/_build/html/index.html"

rehearsal-data: .venv/ready
	$(BIN)/python scripts/rehearsal_data.py '$(REHEARSAL_DATA)'

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

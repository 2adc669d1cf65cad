.DEFAULT_GOAL := help
.PHONY: help install demo test statistical check format wheelhouse images test-images test-faults clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## Make .venv with the tested versions of everything

# torch first and alone: whichever build of that version is at hand satisfies all later needs.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install  ## Three hospitals of phantom patients: train, audit, gate, signed bundle (demo/)
	$(BIN)/pratique demo --out demo --force

test: install  ## Run the test suite (under 15 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not statistical and not images and not faults' -n auto --dist loadfile

statistical: install  ## Run the slow checks of power and calibration
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m statistical

check: install  ## Lint, formatting, types, import contracts; Dockerfile and compose files where tools are
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH="$(abspath $(BIN)):$$PATH" docker/check

format: install  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What is installed without the internet; hatchling and cyclonedx-bom are for building images.
OFFLINE := torch 'pratique[pdf,postgres]'

wheelhouse:  ## Fetch every wheel for an install without the internet, locked by hashes (docker/wheels/)
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir docker/wheels .
	$(PYTHON) -m pip download --quiet --only-binary :all: --dest docker/wheels --find-links docker/wheels \
	  -c constraints.txt $(OFFLINE) hatchling 'cyclonedx-bom>=7,<8'
	$(PYTHON) docker/lock_wheels.py docker/wheels constraints.txt $(OFFLINE)

# BASE_IMAGE, TORCH_INDEX_URL, TAG: see docker/README.md. PIP_CONF, CA_BUNDLE: files that stay in no layer.
BASE_IMAGE ?= python:3.11-slim-bookworm
TORCH_INDEX_URL ?= https://download.pytorch.org/whl/cpu
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TAG ?= $(VERSION)
BUILD = DOCKER_BUILDKIT=1 docker build -f docker/Dockerfile --build-arg BASE_IMAGE=$(BASE_IMAGE) \
  --build-arg TORCH_INDEX_URL=$(TORCH_INDEX_URL) \
  $(if $(PIP_CONF),--secret id=pip_conf$(comma)src=$(PIP_CONF)) \
  $(if $(CA_BUNDLE),--secret id=ca_bundle$(comma)src=$(CA_BUNDLE))
comma := ,

images:  ## Build the images of server and client, and their bill of materials
	@if docker info >/dev/null 2>&1; then set -ex; \
	  $(BUILD) --target server -t pratique-server:$(TAG) .; \
	  $(BUILD) --target client -t pratique-client:$(TAG) .; \
	  $(BUILD) --target sbom --output docker .; \
	else echo "skipped: no container engine answers (docker info)"; fi

test-faults: install  ## Kill, cut and starve every part of a federation (root; about an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults tests

test-images: install  ## Try the images: a federation in containers, one site cut off, one killed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m images tests/images

clean:  ## Remove what make made
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

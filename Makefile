# The commands of this project; `make` lists them.

# The first of these that can create a virtual environment. Any Python from 3.10
# to 3.13 works: make setup PYTHON=/path/to/python3.13.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.10 python3; do \
  $$p -c 'import ensurepip, venv' 2>/dev/null && echo $$p && break; done)
BAZEL ?= bazel
BAZEL_FLAGS ?=
LOCK_FLAGS ?=

# Where the environment is built, and the packages that only tests need.
VENV ?= .venv
OPTIONAL := $(if $(filter .venv,$(VENV)),.cache,$(VENV)/optional)
export HARMONIZATION_OPTIONAL ?= $(abspath $(OPTIONAL))
# The interpreter that environment_test expects.
export HARMONIZATION_PYTHON := $(abspath $(VENV))/bin/python

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup torch digits train test test-fast lint build-files bazel-test benchmark notebook lock clean FORCE

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort \
	  | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.stamp ## Build .venv from the lock files (PYTHON=... chooses the interpreter)

version = $(shell $(1) -c 'import sys; print(sys.version_info[:2])' 2>/dev/null)
# An interpreter named on the command line replaces an environment of another
# version.
ifeq ($(origin PYTHON),command line)
  ifneq ($(call version,$(PYTHON)),$(call version,$(PY)))
    $(VENV)/.stamp: FORCE
    NEW_VENV := --clear
  endif
endif

# $(call optional,NAME,WHAT): packages that only tests need, outside $(VENV). The
# versions that they require, of Python too, are narrower than what works.
optional = @$(PIP) install --quiet --upgrade --require-hashes --no-deps --ignore-requires-python \
  --target $(OPTIONAL)/$(1) -r requirements-$(1).txt 2>/dev/null \
  || echo '$(2) cannot be installed: tests that need it will be skipped.'

# --no-build-isolation: the few source distributions are built with the pinned
# tools, not with the newest ones of the day.
$(VENV)/.stamp: requirements-build.lock requirements.lock requirements-released.txt requirements-beam.txt requirements-builders.txt requirements-xplique.txt requirements-oldest-keras.txt
	@$(or $(PYTHON),false) -c 'import ensurepip, sys, venv; assert (3, 10) <= sys.version_info[:2] < (3, 14)' 2>/dev/null \
	  || { echo 'No Python 3.10 to 3.13 with venv was found. On Debian 12: apt-get install python3.11 python3.11-venv. Elsewhere: make setup PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'Building $(VENV): downloading about 1 GB, mostly TensorFlow and Model Garden.'
	test -x $(VENV)/bin/pip -a -z '$(NEW_VENV)' || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --quiet --require-hashes -r requirements-build.lock
	$(PIP) install --quiet --require-hashes --no-build-isolation -r requirements.lock
	$(call optional,released,The released harmonization package)
	$(call optional,beam,Apache Beam)
	$(call optional,builders,The packages that build the released networks)
	$(call optional,xplique,xplique)
	$(call optional,oldest-keras,The oldest supported Keras 3)
	@touch $@

torch: $(OPTIONAL)/torch/.stamp ## Download PyTorch for the tests of its adapter (about 1 GB)

$(OPTIONAL)/torch/.stamp: $(VENV)/.stamp requirements-torch.txt
	$(PIP) install --quiet --upgrade --target $(OPTIONAL)/torch -r requirements-torch.txt
	@touch $@

digits: setup
	$(PY) -m official_ext.harmonization.data.make_digits_clickme --output_dir=data/digits

train: digits ## Train a baseline and a harmonized network on digits, and compare them
	$(PY) train.py --experiment=harmonized_resnet_imagenet --config_file=experiments/local_cpu.yaml --seed=0 --model_dir=runs/digits/baseline --params_override=task.harmonization.weight=0
	$(PY) train.py --experiment=harmonized_resnet_imagenet --config_file=experiments/local_cpu.yaml --seed=0 --model_dir=runs/digits/harmonized
	$(PY) -m official_ext.harmonization.compare --baseline=runs/digits/baseline --harmonized=runs/digits/harmonized --output_dir=runs/digits

# Three processes, for two cores, since some tests wait. Each takes whole files:
# TensorFlow slows down with the number of functions that a process has traced.
# tests/conftest.py orders them.
PYTEST := $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder
test: lint ## Lint, then run all tests
	$(PYTEST)

test-fast: setup ## Run the fast tests: no training runs, no subprocesses (2 minutes)
	$(PYTEST) --fast

lint: setup ## Check style, types, BUILD files and documents
	$(PY) -m ruff check .
	$(PY) -m ruff format --check --quiet .
	$(PY) -m basedpyright
	$(PY) tools/write_build_files.py --check
	$(PY) tools/check_docs.py
	$(PY) tools/check_headers.py
	$(PY) tools/check_language.py

build-files: ## Write the BUILD files from the imports
	$(PYTHON) tools/write_build_files.py

bazel-test: setup ## Run the tests under Bazel (BAZEL_FLAGS=... for more options)
	@command -v $(BAZEL) >/dev/null || tools/install_bazel.sh
	BAZEL=$(BAZEL) tools/write_bazelrc_offline.sh
	$(BAZEL) test $(BAZEL_FLAGS) //...

RESULTS := runs/benchmarks
benchmark: digits ## Measure speed, exactness and the effect of faults, into runs/benchmarks (2 hours)
	$(PY) -m performance.step_cost --output=$(RESULTS)/step_cost.json
	$(PY) -m performance.exactness --output=$(RESULTS)/exactness.json
	$(PY) -m performance.input_pipeline --output=$(RESULTS)/input_pipeline.json
	$(PY) -m performance.alignment_metrics --output=$(RESULTS)/alignment_metrics.json
	$(PY) -m stress.mutated_records --output=$(RESULTS)/mutated_records.jsonl
	$(PY) -m stress.kill_and_resume --output=$(RESULTS)/kill_and_resume.jsonl
	$(PY) -m stress.long_run --output=$(RESULTS)/long_run.jsonl

notebook: setup ## Run docs/walkthrough.ipynb and save its output (5 minutes)
	$(PY) tools/run_notebook.py docs/walkthrough.ipynb

# One lock for all interpreters: markers choose the versions. uv keeps locked
# versions unless LOCK_FLAGS=--upgrade.
LOCK := .cache/lock/bin/uv pip compile --quiet --universal --python-version 3.10 \
  --generate-hashes --no-emit-index-url --no-emit-find-links \
  --custom-compile-command 'make lock' --default-index https://pypi.org/simple
lock: ## Update the lock files after a change in pyproject.toml (LOCK_FLAGS=--upgrade: newest versions)
	test -x .cache/lock/bin/uv || { $(PYTHON) -m venv .cache/lock && .cache/lock/bin/python -m pip install --quiet uv==0.13.9; }
	$(LOCK) $(LOCK_FLAGS) --extra dev pyproject.toml --output-file requirements.lock
	$(LOCK) $(LOCK_FLAGS) --group build --constraint requirements.lock --output-file requirements-build.lock

clean: ## Remove the environment and caches, but not data/ and runs/
	rm -rf .venv .cache .bazelrc.offline build dist *.egg-info .pytest_cache .ruff_cache
	find official_ext tests -name __pycache__ -prune -exec rm -rf {} +

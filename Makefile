# The commands of this project; `make` alone lists them.

PYTHON ?= python3.11
BAZEL ?= bazel
BAZEL_FLAGS ?=
LOCK_FLAGS ?=

PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check

# TensorFlow's remarks on the processor would bury what a run says.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup torch digits train test lint build-files bazel-test benchmark notebook lock clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort \
	  | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: .venv/.stamp ## Build .venv from the lock files

# $(call optional,NAME,WHAT): packages that tests alone need, apart from .venv.
optional = @$(PIP) install --quiet --upgrade --require-hashes --no-deps \
  --target .cache/$(1) -r requirements-$(1).txt 2>/dev/null \
  || echo '$(2) cannot be had: tests that need it will be skipped.'

# --no-build-isolation: the few dependencies that come as sources are built
# with the pinned tools, not with whatever is newest that day.
.venv/.stamp: requirements-build.lock requirements.lock requirements-released.txt requirements-beam.txt requirements-builders.txt requirements-xplique.txt requirements-oldest-keras.txt
	@$(PYTHON) -c 'import ensurepip, sys, venv; assert sys.version_info[:2] == (3, 11)' 2>/dev/null \
	  || { echo 'Python 3.11 with venv is needed: on Debian 12, apt-get install python3.11 python3.11-venv (elsewhere, make PYTHON=/path/to/python3.11).' >&2; exit 1; }
	@echo 'Building .venv: TensorFlow and Model Garden are about 1 GB to download.'
	test -x .venv/bin/pip || $(PYTHON) -m venv --clear .venv
	$(PIP) install --quiet --require-hashes -r requirements-build.lock
	$(PIP) install --quiet --require-hashes --no-build-isolation -r requirements.lock
	$(call optional,released,The released harmonization package)
	$(call optional,beam,Apache Beam)
	$(call optional,builders,Builders of the released networks)
	$(call optional,xplique,xplique)
	$(call optional,oldest-keras,The oldest Keras 3)
	@touch $@

torch: .cache/torch/.stamp ## Fetch PyTorch for the tests of its adapter (about 1 GB)

.cache/torch/.stamp: .venv/.stamp requirements-torch.txt
	$(PIP) install --quiet --upgrade --target .cache/torch -r requirements-torch.txt
	@touch $@

digits: setup
	$(PY) -m official_ext.harmonization.data.make_digits_clickme --output_dir=data/digits

train: digits ## Train a baseline and its harmonized twin on digits, and compare them
	$(PY) train.py --experiment=harmonized_resnet_imagenet --config_file=experiments/local_cpu.yaml --seed=0 --model_dir=runs/digits/baseline --params_override=task.harmonization.weight=0
	$(PY) train.py --experiment=harmonized_resnet_imagenet --config_file=experiments/local_cpu.yaml --seed=0 --model_dir=runs/digits/harmonized
	$(PY) -m official_ext.harmonization.compare --baseline=runs/digits/baseline --harmonized=runs/digits/harmonized --output_dir=runs/digits

# Two processes, a file at a time: TensorFlow slows down with all that a process
# has traced.
test: lint ## Lint, then run the tests
	$(PY) -m pytest tests -n 2 --dist loadfile

lint: setup ## Check style, docstrings, BUILD files and the references in documents
	$(PY) -m ruff check .
	$(PY) -m ruff format --check --quiet .
	$(PY) tools/write_build_files.py --check
	$(PY) tools/check_docs.py

build-files: ## Write the BUILD files from the imports
	$(PYTHON) tools/write_build_files.py

bazel-test: setup ## Run the tests under Bazel (BAZEL_FLAGS=... for more options)
	@command -v $(BAZEL) >/dev/null || tools/install_bazel.sh
	BAZEL=$(BAZEL) tools/write_bazelrc_offline.sh
	$(BAZEL) test $(BAZEL_FLAGS) //...

RESULTS := runs/benchmarks
benchmark: digits ## Measure a step, the input pipeline and the metrics, and what faults do (two hours), into runs/benchmarks
	$(PY) -m performance.step_cost --output=$(RESULTS)/step_cost.json
	$(PY) -m performance.exactness --output=$(RESULTS)/exactness.json
	$(PY) -m performance.input_pipeline --output=$(RESULTS)/input_pipeline.json
	$(PY) -m performance.alignment_metrics --output=$(RESULTS)/alignment_metrics.json
	$(PY) -m stress.mutated_records --output=$(RESULTS)/mutated_records.jsonl
	$(PY) -m stress.kill_and_resume --output=$(RESULTS)/kill_and_resume.jsonl
	$(PY) -m stress.long_run --output=$(RESULTS)/long_run.jsonl

notebook: setup ## Run docs/walkthrough.ipynb and write what it shows (5 minutes)
	$(PY) tools/run_notebook.py docs/walkthrough.ipynb

# uv prefers the versions already locked: LOCK_FLAGS=--upgrade takes new ones.
LOCK := .cache/lock/bin/uv pip compile --quiet --python-version 3.11 \
  --generate-hashes --no-emit-index-url --no-emit-find-links \
  --custom-compile-command 'make lock' --default-index https://pypi.org/simple
lock: ## Renew the lock files after a change in pyproject.toml (LOCK_FLAGS=--upgrade: newest versions)
	test -x .cache/lock/bin/uv || { $(PYTHON) -m venv .cache/lock && .cache/lock/bin/python -m pip install --quiet uv==0.13.9; }
	$(LOCK) $(LOCK_FLAGS) --extra dev pyproject.toml --output-file requirements.lock
	$(LOCK) $(LOCK_FLAGS) --group build --constraint requirements.lock --output-file requirements-build.lock

clean: ## Remove the environment and caches (data/ and runs/ stay)
	rm -rf .venv .cache .bazelrc.offline build dist *.egg-info .pytest_cache .ruff_cache
	find official_ext tests -name __pycache__ -prune -exec rm -rf {} +

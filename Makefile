# Everything runs in an environment of its own, .venv, made when it is first needed.
# PYTHON chooses the interpreter (3.11 to 3.13), IMAGE an image to serve the demo from.

PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
DEMO ?= demo
RESULTS := $(DEMO)/results

.PHONY: validate test check chaos benchmark format clean
.DELETE_ON_ERROR:

# Train a small classifier, then validate it on digits that it has not seen.
validate: $(VENV)/.demo $(DEMO)/.made $(if $(IMAGE),,triton)
	$(BIN)/luigi --module workflows.validate Validate \
	    --model-repository $(DEMO)/models --model-name digits \
	    --inputs '$(DEMO)/data/*.h5' --target label \
	    --metrics '["accuracy", "top_3_accuracy", "log_loss", "roc_auc", "confusion_matrix"]' \
	    --require 'accuracy >= 0.95' \
	    --output-dir $(RESULTS) $(if $(IMAGE),--image '$(IMAGE)') \
	    --workers 3 --local-scheduler
	@$(BIN)/python -c 'import json, sys; r = json.load(open(sys.argv[1] + "/report.json")); \
	    print("accuracy %.4f; the report is %s/report.html" % (r["metrics"]["accuracy"], sys.argv[1]))' $(RESULTS)

# Every test, with real servers and, where it can be installed, a real container. Most of the time
# goes into waiting for servers, so several files of tests are run at once.
test: $(VENV)/.dev triton
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile $(ARGS)

# What has to pass before a change lands: format, lint, types, tests.
check: $(VENV)/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(MAKE) test

# A real pipeline, again and again, with a fault at a random moment; see tests/chaos/chaos.py.
chaos: $(VENV)/.dev triton
	$(BIN)/python -m tests.chaos.chaos --keep $(if $(IMAGE),--image '$(abspath $(IMAGE))') $(ARGS)

# This client beside others and beside perf_analyzer; see benchmarks/client.py --help.
benchmark: $(VENV)/.dev triton
	$(BIN)/python benchmarks/client.py --memory-gb 50 --output benchmark.json $(ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.PHONY: triton
triton: $(VENV)/.demo
	$(BIN)/hermes install-triton

$(DEMO)/.made: examples/digits.py | $(VENV)/.demo
	$(BIN)/python examples/digits.py $(DEMO)
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(VENV)/.dev: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(VENV)/.demo $@

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info

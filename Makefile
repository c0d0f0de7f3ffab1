# Everything runs in an environment of its own, .venv, made when it is first needed.
# PYTHON chooses the interpreter (3.11 to 3.13), IMAGE an image to serve the demo from.
#
# Make cannot name a file with a space in its path, and a clone may lie in such a directory. So
# paths are the shell's variables, in quotes, and recipes look at what there is already.

export PYTHON ?= python3
export VENV ?= .venv
export DEMO ?= demo
export SEARCH ?= search

.PHONY: validate search test test-root coverage gpu image check chaos soak fuzz conformance benchmark docs format clean
.PHONY: triton install-demo install-dev

# Train a small classifier, then validate it on digits that it has not seen.
validate: install-demo $(if $(IMAGE),,triton)
	@test "$$DEMO/.made" -nt examples/digits.py || \
	    { "$$VENV/bin/python" examples/digits.py "$$DEMO" && touch "$$DEMO/.made"; }
	"$$VENV/bin/luigi" --module workflows.validate Validate \
	    --model-repository "$$DEMO/models" --model-name digits \
	    --inputs "$$DEMO/data/*.h5" --target label \
	    --metrics '["accuracy", "top_3_accuracy", "log_loss", "roc_auc", "confusion_matrix"]' \
	    --require 'accuracy >= 0.95' \
	    --output-dir "$$DEMO/results" $${IMAGE:+--image "$$IMAGE"} \
	    --workers 3 --local-scheduler

# Search simulated strain of two detectors for chirps; see docs/tutorials/search.md.
search: install-demo triton
	@test "$$SEARCH/.made" -nt examples/search/simulate.py && \
	    test "$$SEARCH/.made" -nt examples/search/bank.py || \
	    { "$$VENV/bin/python" examples/search/simulate.py "$$SEARCH" && \
	    "$$VENV/bin/python" examples/search/bank.py "$$SEARCH" && touch "$$SEARCH/.made"; }
	PYTHONPATH=examples/search "$$VENV/bin/luigi" --module search Search \
	    --directory "$$SEARCH" --workers 2 --local-scheduler
	@echo "the report is $$SEARCH/results/search.html"

# Every test, with real servers and real containers. Most of the time goes into waiting for servers,
# so several files of tests are run at once.
test: install-dev triton
	"$$VENV/bin/python" -m pytest --numprocesses 3 --dist loadfile $(ARGS)

# The tests that need root: several users, mounts, namespaces, batch systems. Two files at once: most of
# the time goes into waiting for a batch system.
test-root: install-dev triton
	"$$VENV/bin/python" -m pytest -m root --numprocesses 2 --dist loadfile $(ARGS)

# The tests on real GPUs: elsewhere each is skipped, and says why. They install onnxruntime and PyTorch
# for CUDA in a Triton of their own, in HERMES_GPU_TRITON_HOME where that is set.
gpu: install-dev
	"$$VENV/bin/python" -m pytest -m gpu tests/gpu $(ARGS)

# Which lines and branches of hermes and workflows the tests run, in every process that they start.
# It fails below the figure in pyproject.toml. As root, ARGS="-m 'not gpu'" adds root's tests.
coverage: install-dev triton
	rm -f .coverage .coverage.*
	"$$VENV/bin/python" -m coverage run -m pytest --numprocesses 3 --dist loadfile $(ARGS)
	"$$VENV/bin/python" -m coverage combine --quiet
	"$$VENV/bin/python" -m coverage report

# What the container tests need, for everybody who runs them in this clone: as root, on Debian.
image:
	tests/environment/install-apptainer.sh
	tests/environment/build-triton-image.sh build/triton.sif

# What has to pass before a change lands: format, lint, layers, types, tests.
check: install-dev
	"$$VENV/bin/ruff" format --check
	"$$VENV/bin/ruff" check
	"$$VENV/bin/lint-imports" --no-cache
	"$$VENV/bin/mypy"
	$(MAKE) test

# A real pipeline, again and again, with a fault at a random moment; see tests/chaos/chaos.py. With
# ENGINE=slurm or htcondor, as root, one whose jobs that batch system runs; see tests/clusters/chaos.py.
chaos: install-dev triton
ifdef ENGINE
	ENGINE=$(ENGINE) "$$VENV/bin/python" -m pytest -m root -s tests/clusters/chaos.py $(ARGS)
else
	"$$VENV/bin/python" -m tests.chaos.chaos --keep $${IMAGE:+--image "$$(realpath "$$IMAGE")"} $(ARGS)
endif

# Clients through restarts of their server beside one pipeline after another: make soak ARGS=10
# (minutes; an hour by default); see tests/soak/soak.py.
soak: install-dev triton
	"$$VENV/bin/python" -m tests.soak.soak $(ARGS)

# The readers of files, configurations and parameters, with many more mutations than the suite makes:
# make fuzz ARGS=5000
fuzz: install-dev
	"$$VENV/bin/python" -m tests.fuzz $(ARGS)

# All formats of files, and all cases of the onnx package, served beside onnxruntime in process: half an
# hour. Shows how many were tried, right, refused and wrong.
conformance: install-dev triton
	"$$VENV/bin/python" -m tests.conformance $(ARGS)

# This client beside others and beside perf_analyzer, then whole pipelines beside a plain script; see
# benchmarks/client.py --help (of which ARGS are options) and those of pipelines.py, growth.py and metrics.py.
benchmark: install-dev triton
	"$$VENV/bin/python" benchmarks/client.py --memory-gb 50 --output benchmark.json $(ARGS)
	"$$VENV/bin/python" benchmarks/pipelines.py --output pipelines.json
	"$$VENV/bin/python" benchmarks/growth.py --output growth.json --plot growth.png
	"$$VENV/bin/python" benchmarks/metrics.py

# The pages of docs/ and the reference, in build/docs; what refers to nothing is an error.
docs: install-dev
	"$$VENV/bin/sphinx-build" --quiet --fail-on-warning --keep-going docs build/docs
	@echo "the documentation is build/docs/index.html"

format: install-dev
	"$$VENV/bin/ruff" format
	"$$VENV/bin/ruff" check --fix

triton: install-demo
	"$$VENV/bin/hermes" install-triton

# The environment with an extra of the package. The stamp is written last: whatever stopped an
# earlier call, the next one does all of it.
PYTHON_FITS = 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
define install
	@if [ ! -e "$$VENV/.$(1)" ] && [ ! -e "$$VENV/.demo" ]; then \
	    "$$PYTHON" -c $(PYTHON_FITS) 2>/dev/null || { \
	        echo "hermes needs Python 3.11, 3.12 or 3.13, and $$PYTHON is none of them;" \
	            "name one that is: make PYTHON=python3.12" >&2; exit 1; }; \
	    "$$PYTHON" -m venv "$$VENV" || exit; \
	fi; \
	[ "$$VENV/.$(1)" -nt setup.cfg ] && [ "$$VENV/.$(1)" -nt pyproject.toml ] || { \
	    echo "installing hermes and what it needs into $$VENV: a minute or two"; \
	    "$$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
	        --editable '.[$(1)]' || { \
	        echo "hermes was not installed, for the reason above. Behind a proxy or with a mirror:" \
	            "pip config set global.proxy URL, pip config set global.index-url URL" >&2; exit 1; }; \
	    touch "$$VENV/.demo" "$$VENV/.$(1)"; }
endef

install-demo:
	$(call install,demo)

install-dev:
	$(call install,dev)

clean:
	rm -rf "$$VENV" "$$DEMO" "$$SEARCH" build dist *.egg-info

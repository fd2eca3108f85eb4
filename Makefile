# Two commands do all set-up: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
CLIENTS := .venv-clients
AUDIT := .venv-audit
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo demo-full serve test test-slow test-ends lint audit docs pictures lock clean
.DEFAULT_GOAL := setup

# Everything exactly as locked, each file by its hash; then torch, whose build your package index chooses, with what its
# build needs beyond that (see CONTRIBUTING.md).
$(READY): locks/hashed/cpu.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r locks/hashed/cpu.txt
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)

# Other people's clients of re-rank servers: apart, as their users have them, since their pins and ours do not agree.
$(CLIENTS)/ready: locks/hashed/clients.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r locks/hashed/clients.txt
	touch $(CLIENTS)/ready

setup: $(READY) ## install from the lock file into .venv

demo: $(READY) ## the whole job on this environment's API documentation, some 18 minutes on 2 cores without AMX
	$(BIN)/rrad run configs/demo/pipeline.yaml

demo-full: $(READY) ## the same with more labels and steps, at most an hour on 2 cores
	$(BIN)/rrad run configs/demo/full.yaml

serve: $(READY) ## the demo's winner on http://127.0.0.1:8000, with a search page at /, until Ctrl-C
	$(BIN)/rrad serve configs/demo/serve.yaml

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=25

test: $(READY) $(CLIENTS)/ready ## the tests, two files at a time, within 20 minutes on 2 cores; all but those of test-slow
	$(PYTEST) -m "not slow"

test-slow: $(READY) ## engines, workers and heads that die, clusters that grow, both recipes whole: many minutes more
	$(PYTEST) -m slow

test-ends: ## the core of the tests with the oldest and the newest Ray and vLLM that pyproject.toml takes
	PYTHON=$(PYTHON) locks/ends.sh

lint: $(READY) ## ruff, mypy and deptry
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/deptry rrad_ray jobs

$(AUDIT)/ready: locks/hashed/audit.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r locks/hashed/audit.txt
	touch $(AUDIT)/ready

audit: $(AUDIT)/ready ## report what the locks hold (an SBOM of each) and what OSV knows against it, in runs/audit
	.ci/audit $(AUDIT)/bin runs/audit

docs: $(READY) ## rewrite what is generated in docs/
	$(BIN)/python docs/folder_graph.py
	$(BIN)/python -m rrad_ray.config.reference > docs/configuration.md

pictures: $(READY) ## take the pictures of docs/images from the run that `make demo` left, by a Chromium
	$(BIN)/python docs/pictures.py

lock: ## resolve the sets in locks/ afresh, with the hashes of their files
	locks/refresh.sh

clean: ## drop the virtual environment and all runs
	rm -rf $(VENV) $(CLIENTS) $(AUDIT) .venv-low .venv-high runs

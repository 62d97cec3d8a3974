# The two commands a stranger needs: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One process more than there are cores, at most four: some tests wait for others' processes.
SIDE_BY_SIDE := -n $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? n + 1 : 4))) --dist loadfile
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export HF_HUB_OFFLINE ?= 1

.PHONY: quickstart test test-all test-cluster lint audit install test-pythons deploy-check bench clean

quickstart: $(VENV)/.installed  ## set up and do the main job on the Python documentation
	$(BIN)/rescore quickstart

test: $(VENV)/.installed-test  ## set up and pass the tests
	$(BIN)/pytest $(SIDE_BY_SIDE)

test-all: $(VENV)/.installed-test  ## the slow tests too, and those on clusters
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not cluster"
	$(MAKE) test-cluster

test-cluster: $(VENV)/.installed-test  ## install Ray and Dask, and the tests on real clusters of both
	$(BIN)/pip install -q -c constraints.txt -e '.[ray,dask]'
	$(BIN)/pytest -m cluster

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(VENV)/.installed-test  ## risky code, and known faults of the pinned versions where a network exists
	scripts/audit

install: $(VENV)/.installed

test-pythons:  ## install and test on each Python that pyproject.toml claims
	scripts/test-pythons

deploy-check: $(VENV)/.installed-test  ## every entrypoint of prefect.yaml loads from a foreign folder
	$(BIN)/pytest tests/flows/test_deployments.py

bench: $(VENV)/.installed-test  ## engine and pipeline beside LanceDB's and sentence-transformers' own
	$(BIN)/python -m benchmarks.rerank
	$(BIN)/python -m benchmarks.modernbert

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt -e '.[quickstart]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[quickstart,test,lint]'
	@touch $@

clean:
	rm -rf $(VENV) quickstart

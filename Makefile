# The two commands: `make demo` and `make test`. Everything they need is set up by tools/setup.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-drills lint bench packages up down generate lock clean

PYTHON := .venv/bin/python
DRILLS ?= drill
# Tests wait more than they compute.
WORKERS ?= 4
DRILL_WORKERS ?= 3

help: ## What there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## Install what is missing (Debian packages, .venv)
	@tools/setup

demo: setup ## Three regions on this machine: deploy, serve, steer, fail over; report in build/demo-report.json
	@$(PYTHON) -m lab.demo

up: setup ## The demo's fleet, left running, with hints what to try
	@$(PYTHON) -m lab.demo --keep

down: ## End what `make up` left running
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m lab.main down --name demo; fi

test: setup ## All tests but the slow drills; WORKERS=0 runs them one after the other
	@$(PYTHON) -m pytest -m "not drill" -n $(WORKERS) --no-loadscope-reorder

test-drills: setup ## The slow drills in the lab, and packages in clean systems; DRILLS="drill and not packaging" chooses
	@$(PYTHON) -m pytest -m "$(DRILLS)" -n $(DRILL_WORKERS) --no-loadscope-reorder

lint: setup ## ruff, mypy strict, import-linter, generated code
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@tools/generate --check
	@tools/reference --check

bench: setup ## Benchmarks against peers; NAME=edge runs one
	@tools/bench $(NAME)

packages: setup ## What is shipped, into build/packages: archive, bundle, .deb, .rpm, install.sh
	@tools/packages

generate: ## Generate the contract's code and the reference
	@tools/generate
	@tools/reference

lock: ## Pin dependencies anew
	@tools/lock

clean: ## Remove what was built
	rm -rf build .mypy_cache .ruff_cache .hypothesis .import_linter_cache

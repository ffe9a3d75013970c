# `make demo` and `make test` do all the set-up themselves; `make` alone lists what there is.

PYTHON ?= python3
VENV ?= .venv
# auto: never replace a torch that the machine brings; no: install one into VENV all the same.
SYSTEM_TORCH ?= auto
# Passed on to the command behind a target, except test and its parts but for unit and coverage.
ARGS ?=

bin := $(VENV)/bin
setup := PYTHON="$(PYTHON)" SYSTEM_TORCH="$(SYSTEM_TORCH)" sh tools/setup_venv.sh "$(VENV)"
# The same examples everywhere, and no deadline that a busy machine would miss.
pytest := -m pytest --hypothesis-profile=ci
setup_inputs := pyproject.toml constraints.txt tools/setup_venv.sh

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-page lint types layers unit coverage faults network soak bench bench-full oracle \
    fuzz compat setup clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'
	@echo
	@echo 'Variables: PYTHON=python3.12, VENV=.venv, SYSTEM_TORCH=auto|no, ARGS="flags of the command"'

demo: $(VENV)/.ready-run ## three peers on this machine learn a task together (at most 5 minutes)
	@$(bin)/python -m semantic_net.cli demo $(ARGS)

test: lint types layers coverage ## all that must hold before a change lands

lint: $(VENV)/.ready-dev ## style, format, security
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/bandit --quiet --configfile pyproject.toml --recursive src

types: $(VENV)/.ready-dev ## mypy --strict
	$(bin)/mypy

layers: $(VENV)/.ready-dev ## who may import whom
	$(bin)/lint-imports --no-logo --no-cache

unit: $(VENV)/.ready-dev ## the tests alone, e.g. make unit ARGS="-k config"
	$(bin)/python $(pytest) $(ARGS)

coverage: $(VENV)/.ready-dev ## the tests, and how much of the code they reach
	@$(bin)/coverage erase
	$(bin)/coverage run $(pytest) -n 4 --dist worksteal $(ARGS)
	@$(bin)/coverage combine --quiet
	@mkdir -p build && $(bin)/coverage json --quiet -o build/coverage.json
	$(bin)/python tools/check_coverage.py build/coverage.json

faults: $(VENV)/.ready-dev ## real peers behind a network that breaks (at most 15 minutes, no root)
	$(bin)/python $(pytest) -m faults -rP $(ARGS)

test-page: $(VENV)/.ready-dev ## the live page in Chromium (Debian: chromium, chromium-driver), if it is there
	$(bin)/python $(pytest) -m page tests/page -rPs $(ARGS)

network: $(VENV)/.ready-dev ## transfers on slow, failing links; needs root, skips otherwise
	$(bin)/python $(pytest) -m network tests/network $(ARGS)

soak: $(VENV)/.ready-run ## many seeded disasters, e.g. make soak ARGS="--seeds 0:5000"
	$(bin)/python -m semantic_net.simulation.soak $(ARGS)

bench: $(VENV)/.ready-bench ## speed of codecs and rounds, and accuracy against bytes in short (30 minutes)
	$(bin)/python benchmarks/codec_speed.py
	$(bin)/python benchmarks/round_overhead.py
	$(bin)/python benchmarks/fleet_engines.py
	$(bin)/python benchmarks/bytes_and_accuracy.py --data fashion_dirichlet --seeds 3 $(ARGS)

bench-full: $(VENV)/.ready-bench ## accuracy against bytes in full: hours, but it goes on where it was interrupted
	$(bin)/python benchmarks/bytes_and_accuracy.py --methods all --plot docs/figures/fashion_mnist $(ARGS)
	$(bin)/python benchmarks/bytes_and_accuracy.py --data dubai cicv5g \
	    --methods dense balanced extreme --plot docs/figures/real_data $(ARGS)
	$(bin)/python benchmarks/fleet_learning.py
	$(bin)/python benchmarks/fleet_protocol.py

oracle: $(VENV)/.ready-bench $(VENV)/.ready-byzfl ## the robust rules against those of byzfl
	$(bin)/python benchmarks/byzfl_oracle.py --byzfl $(VENV)/byzfl $(ARGS)

fuzz: $(VENV)/.ready-fuzz ## a million inputs for each reader of strangers' bytes (x86, half an hour)
	$(bin)/python tools/fuzz.py $(ARGS)

compat: ## the tests that need no torch, on every other Python >= 3.10 found here
	@sh tools/compat.sh $(ARGS)

setup: $(VENV)/.ready-dev ## the virtual environment with everything for development

clean: ## remove what tools leave behind; keeps .venv and runs/
	rm -rf build dist htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache
	rm -rf .hypothesis .import_linter_cache src/*.egg-info
	find src tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.ready-run: $(setup_inputs)
	@$(setup) .
	@touch $@

$(VENV)/.ready-bench: $(VENV)/.ready-dev
	@$(setup) ".[dev,bench]"
	@touch $@

$(VENV)/.ready-fuzz: $(VENV)/.ready-dev
	@$(setup) ".[dev,fuzz]"
	@touch $@

# Beside the environment and without what it needs: torchvision, which would have to fit torch.
$(VENV)/.ready-byzfl: $(VENV)/.ready-dev
	@$(bin)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/byzfl byzfl==0.0.11
	@touch $@

$(VENV)/.ready-dev: $(setup_inputs)
	@$(setup) ".[dev]"
	@touch $@ $(VENV)/.ready-run

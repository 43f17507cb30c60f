# `make demo` and `make test` are all it takes to try skwgf; `make help` lists the rest.
#
# Every environment is made once. A stamp file inside it is older than pyproject.toml or
# constraints.txt when these have changed, and only then does pip run again.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
# Processes that run the tests; each computes on one thread.
JOBS ?= 2
# Where torch comes from. The default is the build for the processor: the one of the general index
# brings several GB of CUDA libraries. Empty leaves the choice to pip.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Folder of data files for the benchmarks, handed on as --data; empty for none.
DATA ?=
PYTEST_ARGS ?=
SPHINX_ARGS ?= -W --keep-going

VENV := .venv
BENCH_VENV := .venv-bench
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)
BENCHMARKS ?= $(addprefix benchmarks/, sinkhorn_engine.py ring.py w2_shapes.py one_step.py \
    persistence.py mode_coverage.py finite_sample.py tables.py digits_generation.py \
    digits_adaptation.py domain_shift.py label_free.py \
    svgd.py torus.py gwg.py gwg_toys.py mean_field.py wsfn.py wsfn_quantiser.py wsfn_scale.py \
    $(if $(DATA),svgd_posteriors.py svgd_recipe.py gwg_posteriors.py uci.py))

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-slow lint docs bench clean distclean $(VENV) $(BENCH_VENV)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Fit on real digits, print the figures, write the pictures to demo/
	OMP_NUM_THREADS=1 $(VENV)/bin/python examples/demo_digits.py

test: $(VENV)/.installed ## Run the tests and the examples in the docstrings
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(JOBS) -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.installed ## Run the long statistical tests
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(JOBS) -m slow $(PYTEST_ARGS) \
	    || [ $$? -eq 5 ]  # 5: no test is marked slow

lint: $(VENV)/.installed ## Check style, format and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/.docs ## Build the documentation into docs/_build/html
	OMP_NUM_THREADS=1 $(VENV)/bin/sphinx-build -b html $(SPHINX_ARGS) docs docs/_build/html

bench: $(BENCH_VENV)/.installed ## Compare with peers; tables go to benchmarks/results
	for script in $(BENCHMARKS); do \
	    OMP_NUM_THREADS=1 $(BENCH_VENV)/bin/python $$script $(if $(DATA),--data "$(DATA)") --out benchmarks/results; \
	done

clean: ## Remove what the other targets wrote, but for the environments
	rm -rf build dist demo docs/_build docs/auto_examples docs/generated
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find skwgf tests examples benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the environments as well
	rm -rf $(VENV) $(BENCH_VENV)

$(VENV): $(VENV)/.installed

$(BENCH_VENV): $(BENCH_VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call install-torch,$(VENV))
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

# torchcfm names training frameworks as requirements that its couplings do not import and that
# would replace the tested torch: it is installed alone.
$(BENCH_VENV)/.installed: pyproject.toml constraints.txt | $(BENCH_VENV)/bin/python
	$(call install-torch,$(BENCH_VENV))
	$(BENCH_VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	$(BENCH_VENV)/bin/python -m pip install --quiet -c constraints.txt --no-deps torchcfm
	@touch $@

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "skwgf needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	    echo "Name another interpreter: make PYTHON=python3.12 ..." >&2; \
	    exit 1; \
	}
	$(PYTHON) -m venv --clear $*

# A wheel that pip is configured to find locally needs no download, so it is asked for first.
define install-torch
	$(if $(TORCH_INDEX),$(1)/bin/python -m pip install --quiet --no-deps --no-index '$(TORCH)' \
	    2>/dev/null || $(1)/bin/python -m pip install --no-deps --index-url $(TORCH_INDEX) '$(TORCH)')
endef

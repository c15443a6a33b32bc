# Every target sets up .venv by itself; nothing else is needed but Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ZOO := $(patsubst models/%/spec.toml,%,$(wildcard models/*/spec.toml))
MODEL ?=

.PHONY: demo test lint verify-optimality verify-quick zoo bench clean

demo: $(READY)
	$(BIN)/mad-ip solve models/deepmad-r18/spec.toml

# torch.compile looks into all loaded modules and trips over the imports that Pyomo defers: a process of its own.
test: $(READY)
	$(BIN)/python -m pytest --ignore tests/test_networks.py
	$(BIN)/python -m pytest tests/test_networks.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

verify-optimality: $(READY)
	$(BIN)/python -m mad_ip.verification $(MODEL)

verify-quick: $(READY)
	$(BIN)/python -m mad_ip.verification toy

zoo: $(READY)
	for model in $(ZOO); do \
	  $(BIN)/mad-ip solve models/$$model/spec.toml --out models/$$model/design.json || exit 1; \
	done
	$(BIN)/python -m mad_ip.reports.picture
	$(BIN)/python -m mad_ip.reports.published

bench: $(READY)
	$(BIN)/python -m mad_ip.reports.bench

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

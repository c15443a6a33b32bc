# Every target sets up .venv by itself; nothing else is needed but Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ZOO := $(patsubst models/%/spec.toml,%,$(wildcard models/*/spec.toml))
MODEL ?=
SOLVERS := highs highs-monolithic scip cpsat glpk evolution
REPORTED := models/toy/spec.toml models/mobile/spec.toml models/coarse/deepmad-r18.toml

.PHONY: demo test lint docs package verify-optimality verify-quick zoo bench report fuzz faults soak compat browser clean

demo: $(READY)
	$(BIN)/mad-ip solve models/deepmad-r50/spec.toml --threads 2

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in build/docs; a broken reference is an error. Only its mathematics, when shown, needs the network.
docs: $(READY)
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --nitpicky -d build/doctrees docs build/docs

package: $(READY)
	$(BIN)/python -m tools.package_check

verify-optimality: $(READY)
	$(BIN)/python -m mad_ip.verification $(MODEL)

verify-quick: $(READY)
	$(BIN)/python -m mad_ip.verification --quick

zoo: $(READY)
	for model in $(ZOO); do \
	  $(BIN)/mad-ip solve models/$$model/spec.toml --threads 2 --out models/$$model/design.json || exit 1; \
	done
	$(BIN)/python -m tools.picture
	$(BIN)/python -m tools.published

bench: $(READY)
	$(BIN)/python -m tools.bench

# Ten minutes of hostile input; what is found stays in build/fuzz, and is an error.
fuzz: $(READY)
	$(BIN)/python -m tools.fuzz

# The page and all traces stay in build/report; what the repository shows goes to solvers/.
report: $(READY)
	$(BIN)/mad-ip compare $(REPORTED) $(SOLVERS:%=--solver %) \
	  --time-limit 45 --seeds 3 --threads 2 --out build/report
	mkdir -p solvers/plots
	cp build/report/report.md solvers/
	cp build/report/plots/*.png solvers/plots/

# Signals at random moments of every command that takes long; what goes wrong stays in build/faults. Takes hours.
faults: $(READY)
	$(BIN)/python -m tools.faults

soak: $(READY)
	$(BIN)/python -m tools.soak

# Every extra alone, at its lowest and its newest versions: an hour or more, and 10 GB in TMPDIR.
compat: $(READY)
	$(BIN)/python -m tools.compatibility

# Some tests open pages in Chromium: skipped where there is none, but not in CI.
browser:
	command -v chromium && command -v chromedriver || \
	  { apt-get update && apt-get install -y --no-install-recommends chromium chromium-driver; } || \
	  echo "Chromium and its driver are missing and cannot be installed here; install both to test the pages"

clean:
	rm -rf $(VENV) build dist docs/api *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# Once here rather than under the clock of the first solves: numba keeps the machine code that it compiles, and what
	# takes long of it is all needed by a space as large as this, but not by the toy.
	$(BIN)/mad-ip solve models/deepmad-r18/spec.toml --quiet > /dev/null
	touch $@

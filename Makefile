# `make demo` and `make test` create .venv when it is missing and install what they need.
PYTHON ?= python3
VENV   := .venv
ifeq ($(OS),Windows_NT)
BIN    := $(VENV)/Scripts
else
BIN    := $(VENV)/bin
endif
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
OUT    ?= demo

# A process for each processor, of one thread each; `make test WORKERS=0` is one process.
WORKERS ?= logical
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

CORE := $(addprefix tests/,models data inference evaluation training)

.PHONY: demo quick test exhaustive web lint format dist test-wheel docs clean

demo: $(VENV)/.demo
	$(BIN)/python examples/brain_tissue.py $(OUT)

# The core, in less than a minute: no process, no browser, no other runtime, no large network.
quick: $(VENV)/.dev
	$(PYTEST) -q -m "not (process or browser or runtime or slow or cuda)" $(CORE)

test: $(VENV)/.dev
	$(BIN)/python web/build_page.py
	$(PYTEST)

# What `make test` leaves out, since shorter tests show it in brief: about 5 minutes.
exhaustive: $(VENV)/.dev
	$(PYTEST) -m exhaustive

# The page of `transunet serve`, into src/transunet/serve/page: the same bytes on any machine.
# Installing the package and `make test` do this too, where Node is there and the page is not current.
web:
	@command -v npm >/dev/null || { echo "make web needs Node 20 or newer with npm: https://nodejs.org"; exit 1; }
	cd web && npm ci --ignore-scripts --no-audit --no-fund && npm run check && npm run build

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What a release publishes: the source and the wheel, with the built page.
dist: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/python -m zipfile -l dist/*.whl | grep -q transunet/serve/page/index.html || \
	  { echo "The wheel has no page. It is built with Node 20 or newer: https://nodejs.org"; exit 1; }

# The wheel in dist/ as users get it: in an environment of its own, not the source in src/.
WHEEL := .venv-wheel
test-wheel:
	rm -rf $(WHEEL)
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip install --quiet -c constraints.txt "$$(echo dist/*.whl)[train,images]" \
	  pytest pytest-xdist
	$(WHEEL)/bin/transunet --version
	$(WHEEL)/bin/python -m pytest -q -m "not (process or browser or runtime or slow or cuda)" \
	  tests/bundle tests/evaluation tests/inference

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean:
	rm -rf $(VENV) $(WHEEL) $(OUT) dist site web/node_modules src/transunet/serve/page

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "transunet needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV) || \
	  { echo "Cannot create $(VENV). On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps -r tests/integrations/nnunet/requirements.txt
	touch $@

$(VENV)/.docs: $(VENV)/.dev pyproject.toml constraints.txt
	$(PIP) -e '.[docs]'
	touch $@

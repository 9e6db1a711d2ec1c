# Everything runs from .venv, which is made on the first call and again when its inputs change.
#   make PYTHON=/path/to/python3.12 demo   chooses the interpreter .venv is made with.
#   make VENV=.venv312 PYTHON=python3.12 test   runs in another folder, here with ArviZ 1.
#   make test ROOM=inference/smc           runs the tests of one room.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The site is built without torch, in a folder of its own.
DOCS := .venv-docs
EXTRA := import tomllib; \
    print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])
# Other names to try, unless the caller chose one.
OTHERS := $(if $(filter file,$(origin PYTHON)),python3.13 python3.12 python3.11)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

ROOM ?=

# A virtual environment in a folder, if there is none.
define venv
@if ! $(1)/bin/python -m pip --version >/dev/null 2>&1; then \
    old='import sys; sys.exit(sys.version_info < (3, 11))'; \
    found=; \
    for python in "$(PYTHON)" $(OTHERS); do \
        if "$$python" -c "$$old" >/dev/null 2>&1; then found="$$python"; break; fi; \
    done; \
    if [ -z "$$found" ]; then \
        echo "Pushforward needs Python 3.11 or newer; '$(PYTHON)' is" \
            "$$("$(PYTHON)" --version 2>&1 || echo missing)." \
            "Name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
        exit 1; \
    fi; \
    echo "Making $(1) with $$found ($$("$$found" --version))"; \
    "$$found" -m venv --clear $(1); \
fi
endef

.PHONY: demo test slow museum lint house docs wheel clean

demo: $(READY)
	@$(BIN)/python -m pushforward demo

test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q tests/$(ROOM)

slow: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q -m "slow and not gpu" tests/$(ROOM)

# Every fault of tests/museum, and its correct twin, before the checks.
museum: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not gpu" tests/museum

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy -p pushforward

# Circles and forbidden arrows between the rooms; the table and the drawing of docs/architecture.md.
house: $(READY)
	@$(BIN)/python tests/support/house.py --write

# The site in out/site; a link that leads nowhere is an error.
docs: $(DOCS)/.ready
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict # -q would hide warnings from --strict
	@echo "Built out/site/index.html"

# build/ is removed first: setuptools would ship what an earlier build left in it.
wheel: $(READY)
	@rm -rf build
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist

clean:
	rm -rf $(VENV) $(DOCS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and alone: it is the large download, and nothing else may choose its build.
$(READY): pyproject.toml constraints.txt
	$(call venv,$(VENV))
	@echo "Installing torch and the other dependencies into $(VENV); the first time takes minutes"
	@$(BIN)/python -m pip install -q --upgrade pip
	@$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	@$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	@touch $@

$(DOCS)/.ready: pyproject.toml constraints.txt
	$(call venv,$(DOCS))
	@$(DOCS)/bin/python -m pip install -q --upgrade pip
	@$(DOCS)/bin/python -c "$(EXTRA)" | xargs $(DOCS)/bin/python -m pip install -q -c constraints.txt
	@touch $@

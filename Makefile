# Two commands: `make demo` and `make test`. Each sets up everything it needs in .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test lint clean

# The demo corpus, four methods, three seeds each, and the leaderboard.
demo: $(INSTALLED)
	$(BIN)/fusion-zoo bench benchmarks/suites/demo.yaml --jobs 2 --threads 1 --out runs/demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs

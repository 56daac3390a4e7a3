# One target per thing that a developer does. Each makes the virtual environment that it needs, once.
#
#   make demo       caption examples/photos/ with the runtime's dependencies only (no torch)
#   make test       install what the tests need, torch included, and run them all
#   make lint       ruff: rules and formatting          make format     let ruff mend both
#   make typecheck  mypy --strict over a plain copy of the package
#   make bench      all measurements and docs/BENCHMARKS.md; BENCH_ARGS=--quick for some minutes
#   make clean      remove everything that these targets made

PYTHON ?= python3
DEMO_VENV := .venv-demo
TEST_VENV := .venv
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST_ARGS ?= --numprocesses=auto --maxprocesses=4

# A set MAKEFLAGS -j must not build two environments' editable installs at once: both write kiloword.egg-info.
.NOTPARALLEL:
.PHONY: demo test lint format typecheck bench clean
.DEFAULT_GOAL := demo

demo: $(DEMO_VENV)/installed
	$(DEMO_VENV)/bin/python cli.py caption examples/photos --format table

test: $(TEST_VENV)/installed
	OMP_NUM_THREADS=1 $(TEST_VENV)/bin/python -m pytest $(PYTEST_ARGS)

lint: $(TEST_VENV)/installed
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/ruff format --check .

format: $(TEST_VENV)/installed
	$(TEST_VENV)/bin/ruff check --fix .
	$(TEST_VENV)/bin/ruff format .

# mypy cannot see an editable install in a checkout that is not called `kiloword`, so it reads a plain copy.
# build/lib goes first: setuptools would pack a module that was deleted since.
typecheck: $(TEST_VENV)/installed
	rm -rf build/lib build/typed
	$(TEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/typed .
	MYPYPATH=build/typed $(TEST_VENV)/bin/mypy -p kiloword
	MYPYPATH=build/typed $(TEST_VENV)/bin/mypy --explicit-package-bases benchmarks

bench: $(TEST_VENV)/installed
	$(TEST_VENV)/bin/python -m benchmarks.everything $(BENCH_ARGS)

clean:
	rm -rf $(DEMO_VENV) $(TEST_VENV) .venv-notorch build dist kiloword.egg-info
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# Without --no-compile pip writes bytecode of every module; captioning needs an eighth of it, and Python writes
# that at the first import.
$(DEMO_VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(DEMO_VENV)
	$(DEMO_VENV)/bin/python $(PIP_INSTALL) --no-compile -e .
	touch $@

$(TEST_VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(TEST_VENV)
	$(TEST_VENV)/bin/python $(PIP_INSTALL) -e ".[train,export,camera,digits,parquet,serve,test,dev]"
	touch $@

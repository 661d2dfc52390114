# `make run` and `make test` do all of their own set-up. Everything they install lies in .venv.

# The first that runs and is new enough: a name on PATH may be a shim (pyenv's, say) of a version that is not there.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$python; break; }; done)
# The system's Python, if it has PyTorch. /usr/bin first: what comes with Debian is there, whatever else is on PATH.
TORCH_PYTHON ?= $(shell for python in /usr/bin/python3 python3; do \
  $$python -c 'import sys, ensurepip, torch; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
GRPCURL := github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3
PROTOS := $(wildcard protos/clickstream/v1/*.proto)
# What `make test-versions` runs: what goes through a client or over the wire, and with what.
VERSION_TESTS := tests/contract $(sort $(wildcard tests/e2e/test_*client*.py tests/e2e/test_wire*.py)) tests/e2e/test_versions.py
VERSION_CASES := client or wire or versions
VERSION_TOOLS := pytest|pytest-asyncio|pytest-xdist|hypothesis|PyYAML
export CLICKSTREAM_DATA_DIR ?= $(CURDIR)/.data

.DEFAULT_GOAL := help
.PHONY: $(shell sed -nE 's/^([a-z-]+):.*/\1/p' $(MAKEFILE_LIST)) # all that are no files

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-13s %s\n", $$1, $$2 }'

run: $(VENV)/.server ## serve on 127.0.0.1:50051 with an embedded MongoDB, until Ctrl-C
	@exec $(BIN)/clickstream serve

demo: $(VENV)/.server ## the whole way on one screen: serve, replay, release, read back (LOG=FILE for a log of your own)
	@exec $(BIN)/clickstream demo $(if $(LOG),"$(LOG)")

test: $(VENV)/.dev ## run all tests but the long ones of test-faults, and test-polyglot
	$(BIN)/pytest -n 4 --ignore=tests/polyglot $(ARGS)

test-faults: $(VENV)/.dev ## break servers, MongoDB and the network under load, and report what became of it (13 minutes)
	$(BIN)/pytest -q -m '' tests/faults $(ARGS)

test-polyglot: $(VENV)/.dev ## run the examples in Go, Node, Java and Rust on real servers, as far as these are installed
	@$(BIN)/pytest -q -n 2 tests/polyglot $(ARGS)

test-torch: ## what needs PyTorch, with the system's; TORCH=pypi installs a current one, 5 GB and mostly CUDA
	@if [ '$(TORCH)' = pypi ]; then $(MAKE) --no-print-directory test-torch-pypi; \
	elif python=$(TORCH_PYTHON); [ -n "$$python" ]; then \
	  $(MAKE) --no-print-directory test-torch-system TORCH_PYTHON="$$python"; \
	else echo "No Python of this system has PyTorch and venv (on Debian: apt install python3-torch python3-venv):"; \
	  echo "what needs it is skipped. make test-torch TORCH=pypi installs 5 GB, mostly CUDA, into $(VENV)-torch."; fi

test-torch-pypi: $(VENV)-torch/.done
	$(VENV)-torch/bin/pytest -n 2 tests/datasets tests/e2e/test_readme.py tests/e2e/test_docs.py $(ARGS)

test-torch-system: $(VENV)-torch-system/.done
	$(VENV)-torch-system/bin/pytest -n 2 tests/datasets/test_torch.py tests/e2e/test_readme.py $(ARGS)

test-versions: $(VENV)/.dev ## the clients on the lowest and the newest versions that pyproject.toml allows
	@$(BIN)/python tools/bounds.py >$(VENV)/lowest.txt
	@grep -E '^($(VERSION_TOOLS))==' constraints.txt >$(VENV)/tools.txt
	@set -e; for versions in lowest highest; do \
	  python=$(VENV)-$$versions/bin/python; \
	  echo "Installing the $$versions versions into $(VENV)-$$versions …"; \
	  $(BIN)/python -m venv --clear $(VENV)-$$versions; \
	  test $$versions = highest && bounds= || bounds="-c $(VENV)/lowest.txt"; \
	  $$python -m pip install --quiet --disable-pip-version-check $$bounds -r $(VENV)/tools.txt -e '.[server]'; \
	  $$python -m pip list --disable-pip-version-check | grep -E '^(grpcio|protobuf|googleapis-common-protos|pydantic) '; \
	  $$python -m pytest -q -n 2 -p no:cacheprovider -k '$(VERSION_CASES)' $(or $(ARGS),$(VERSION_TESTS)); \
	done

tools: $(VENV)/.dev ## grpcurl and buf into .venv/bin, for docs/debugging.md (needs Go)
	@if ! command -v go >/dev/null; then echo "There is no Go here: grpcurl is not installed, and tests skip its lines."; \
	elif ! GOBIN="$(CURDIR)/$(BIN)" go install $(GRPCURL); then echo "grpcurl could not be installed: tests skip its lines."; fi

bench: $(VENV)/.bench ## every row of docs/performance.md against its mark (three quarters of an hour; ARGS='get-session' for one)
	@$(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(VENV)/.server ## the same with little of everything, in two minutes: a report, no measurement
	@$(BIN)/python -m benchmarks --quick --into build/bench-quick $(ARGS)

check: $(VENV)/.dev ## format, lint, types; whether the protos keep what is released, and the generated code is theirs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf lint
	$(BIN)/buf breaking --against protos/released.binpb --exclude-imports
	$(BIN)/mypy
	$(BIN)/python tools/generate.py --check

format: $(VENV)/.dev ## put the code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format --write

generate: $(VENV)/.dev ## make client/clickstream/v1 from protos/
	$(BIN)/python tools/generate.py

screenshot: $(VENV)/.dev ## make the README's picture of the page (needs chromium and chromedriver)
	$(BIN)/python tools/screenshot.py

clean: ## remove what was installed and built (the data in .data stays)
	rm -rf $(VENV) $(VENV)-* build *.egg-info client/*.egg-info server/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found. Name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo no Python). Name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -w . || { echo "This folder is not yours to write to, and everything is installed into it: clone into one of your own." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 -m venv does not work here (on Debian: apt install python3-venv)." >&2; exit 1; }

$(VENV)/.server: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[server]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.server

$(VENV)/.bench: $(VENV)/.server
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[server,bench]'
	@touch $@

# Apart, so that nobody needs PyTorch for the rest. Its pinned version without CUDA, put there before, would be kept.
$(VENV)-torch/.done: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV)-torch …"
	@$(BIN)/python -m venv $(VENV)-torch
	@$(VENV)-torch/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,torch]' torchdata
	@touch $@

# Little on top of the system's packages: pandas and pyarrow would bring a numpy that an older PyTorch cannot use.
$(VENV)-torch-system/.done: pyproject.toml constraints.txt
	@echo "Installing into $(VENV)-torch-system …"
	@$(TORCH_PYTHON) -m venv --system-site-packages $(VENV)-torch-system
	@$(VENV)-torch-system/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[server]' pytest pytest-asyncio pytest-xdist
	@touch $@

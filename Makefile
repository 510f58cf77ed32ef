# Every target sets up what it needs. `make setup` makes .venv with the tested versions of constraints.txt.
# On a machine whose python3 is older than 3.11, name another one: make setup PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.set-up
OLDEST := .venv-oldest
STORAGE ?= runs
RECIPE ?= pipelines/recipes/toyworld.yaml
ARGS ?=
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo ray-up ray-down ray-demo test test-slow test-faults test-oldest check format bench bench-core bench-forms bench-paper-shapes bench-seeds bench-data bench-train bench-plan bench-predict bench-startup ui

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## make .venv and install the packages and the tools

$(STAMP): constraints.txt requirements.txt requirements-dev.txt $(wildcard packages/*/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "setup needs Python 3.11 or newer, $(PYTHON) is not; try: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "1/2 making .venv"
	@$(PYTHON) -m venv .venv
	@echo "2/2 installing the packages of constraints.txt, $$(grep -c == constraints.txt) at most"
	@infra/install.sh .venv -r requirements.txt -r requirements-dev.txt
	@touch $@

ray-up: $(STAMP) ## start a Ray head on this machine, to try a submitted job; with a token of its own
	@infra/ray/local_head.sh up

ray-down: ## stop that head and all it started
	@infra/ray/local_head.sh down

ray-demo: $(STAMP) ## start a head, submit RECIPE to it as to a cluster, stop the head
	@infra/ray/local_head.sh up
	@trap 'infra/ray/local_head.sh down' EXIT; \
	  infra/ray/local_head.sh submit python pipelines/instruct_tune.py \
	  --config $(RECIPE) --storage=$(abspath $(STORAGE)) --launch.num_workers=2 $(ARGS)

demo: $(STAMP) ## run the whole job on the toy world, on CPU
	$(BIN)/python pipelines/instruct_tune.py --config $(RECIPE) $(ARGS)

test: $(STAMP) ## run the tests (choose some: make test ARGS="tests/core -k split")
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --no-loadscope-reorder $(ARGS)

test-slow: $(STAMP) ## run the tests that take minutes
	$(BIN)/python -m pytest -m "slow and not faults" $(ARGS)

test-faults: $(STAMP) ## kill, stop, damage and starve training, and print what came of it (20 minutes)
	$(BIN)/python -m pytest tests/faults tests/train tests/pipelines tests/e2e -m faults --session-timeout=12000 $(ARGS)

test-oldest: $(OLDEST)/.set-up ## run the tests of memvp-core with the oldest transformers and PEFT it is tested with
	$(OLDEST)/bin/python -m pytest -m "not slow" tests/core $(ARGS)

# The tested set, but for the libraries that requirements-oldest.txt names and what they bring along.
$(OLDEST)/.set-up: constraints.txt requirements-oldest.txt packages/memvp-core/pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	grep -vE '^(transformers|peft|tokenizers|huggingface_hub)==' constraints.txt > $(OLDEST)/constraints.txt
	@infra/install.sh $(OLDEST) -c $(OLDEST)/constraints.txt -r requirements-oldest.txt
	@touch $@

check: $(STAMP) ## formatting, lint, types, and who imports whom
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(STAMP) ## let ruff mend formatting and what it safely can, and draw the picture of the folders again
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python docs/draw_folders.py

bench: bench-core bench-forms bench-paper-shapes ## run the measurements of memvp-core (minutes; results in benchmarks/results/)

bench-core: $(STAMP) ## time, memory and bytes of memory beside text alone, input-space prompts and rebuilt keys
	$(BIN)/python benchmarks/core_speed.py $(ARGS)

bench-forms: $(STAMP) ## whether form="auto" takes the fastest form
	$(BIN)/python benchmarks/core_forms.py $(ARGS)

bench-paper-shapes: $(STAMP) ## the paper's comparisons of speed and memory, at sizes that fit a CPU
	$(BIN)/python benchmarks/core_paper_shapes.py $(ARGS)

bench-seeds: $(STAMP) ## the demo with three seeds and trained blind, below STORAGE (about four times make demo)
	$(BIN)/python benchmarks/toyworld_seeds.py --storage $(STORAGE)/seeds $(ARGS)

bench-data: $(STAMP) ## reading features and images beside tarfile, webdataset, torch.load and Pillow (a minute)
	$(BIN)/python benchmarks/data_reading.py $(ARGS)

bench-predict: $(STAMP) ## throughput of predictions beside a bare loop of model.generate (minutes)
	$(BIN)/python benchmarks/prediction.py $(ARGS)

bench-train: $(STAMP) ## what the training stack and feature extraction cost beside bare torch (minutes, on an idle machine)
	$(BIN)/python benchmarks/train_overhead.py $(ARGS)
	$(BIN)/python benchmarks/extraction_overhead.py $(ARGS)

bench-startup: $(STAMP) ## processor seconds of --help, --dry-run and a job that re-uses everything (a minute or two)
	$(BIN)/python benchmarks/startup.py $(ARGS)

bench-plan: $(STAMP) ## planned memory beside measured, planned times beside the paper's
	$(BIN)/python benchmarks/train_memory.py $(ARGS)
	$(BIN)/python benchmarks/train_memory_zero.py $(ARGS)
	$(BIN)/python benchmarks/plan_beside_paper.py $(ARGS)

ui: $(STAMP) ## open the runs of STORAGE (default: runs) in the MLflow UI on port 5000
	$(BIN)/mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
	  --backend-store-uri sqlite:///$(abspath $(STORAGE))/mlflow.db

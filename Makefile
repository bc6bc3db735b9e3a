# `make help` lists the targets. Everything is set up on the way; PYTHON and VENV may be given.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet

.PHONY: help demo test lint bench fuzz clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/core ## install what a run needs, compress the digits network and leave a report in runs/demo
	$(BIN)/compress demo -o runs/demo

test: $(VENV)/dev ## install what the tests need and run them
	$(BIN)/python -m pytest

lint: $(VENV)/dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

bench: $(VENV)/bench ## compare with NNCF and Brevitas, cover many architectures; takes some hours (benchmarks/README.md)
	@status=0; \
	$(BIN)/python benchmarks/architectures.py || status=1; \
	$(BIN)/python benchmarks/pruning_architectures.py || status=1; \
	$(BIN)/python benchmarks/int8_peers.py || status=1; \
	$(BIN)/python benchmarks/distill_table.py || status=1; \
	$(BIN)/python benchmarks/qat_peers.py --epochs 3 --lr 5e-5 || status=1; \
	$(BIN)/python benchmarks/l2_curve.py || status=1; \
	{ $(PIP) --no-deps nncodec && $(BIN)/python benchmarks/size_peers.py; } || status=1; \
	$(BIN)/python benchmarks/l2z_scale.py || status=1; \
	$(BIN)/python benchmarks/gate_simulation.py || status=1; \
	$(BIN)/python benchmarks/latency_prediction.py || status=1; \
	$(BIN)/python benchmarks/token_peers.py || status=1; \
	$(BIN)/python benchmarks/token_folds.py || status=1; \
	$(BIN)/python benchmarks/token_sites.py --int8 || status=1; \
	$(BIN)/python benchmarks/shared_store.py || status=1; \
	{ $(BIN)/compress demo -o runs/demo && $(BIN)/python benchmarks/run_and_gate.py runs/demo; } || status=1; \
	$(BIN)/python benchmarks/step_ablation.py || status=1; \
	$(BIN)/compress run examples/solar/cnn.yaml -o runs/solar-cnn || status=1; \
	$(BIN)/python benchmarks/pack_error.py examples/solar/cnn.yaml runs/solar-cnn/float.onnx runs/solar-cnn/model.onnx \
		|| status=1; \
	for each in gate_real benchmark_app remote_loopback; do \
		$(BIN)/python benchmarks/$$each.py runs/solar-cnn/float.onnx || status=1; \
	done; \
	exit $$status

fuzz: $(VENV)/dev ## read a million damaged .l2z files and 12,500 other model files; takes half an hour
	MUTATIONS=1000000 $(BIN)/python -m pytest tests/pipeline/l2z/test_l2z.py -k mutated
	MUTATIONS=10000 $(BIN)/python -m pytest tests/attacks/test_mutations.py
	MUTATIONS=2500 $(BIN)/python -m pytest tests/attacks/test_onnx_mutations.py

clean: ## remove the virtual environment and all runs
	rm -rf $(VENV) runs build edgepress.egg-info

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/core: setup.cfg pyproject.toml | $(BIN)/pip
	@echo "installing edgepress into $(VENV) (a few minutes the first time)"
	$(PIP) -e .
	@touch $@

$(VENV)/dev: setup.cfg pyproject.toml | $(BIN)/pip
	@echo "installing edgepress[dev] into $(VENV) (a few minutes the first time)"
	$(PIP) -e '.[dev]'
	@touch $(VENV)/core $@

$(VENV)/bench: benchmarks/requirements.txt $(VENV)/dev
	$(PIP) -r benchmarks/requirements.txt
	$(PIP) --no-deps -r examples/solar/requirements.txt
	@touch $@

# make setup   .venv with MLX's backend for this machine: Metal on a Mac, CUDA where a driver answers, else CPU
# make demo    phantoms -> train -> evaluate, then the same with clips; a few minutes on two cores
# make test    lint, format check, types, tests
# make test-fast   lint, format check and the quick tests: under a minute on two free cores
# make fuzz    damaged files, configs and packs, a thousand of each kind (FUZZ_EXAMPLES=...): an hour or so
# make bench   the training step against PyTorch, in one run
# PYTHON=... chooses the Python of a new .venv; else the first one that runs and that MLX's wheels fit.
PYTHONS := python3.13 python3.12 python3.11 python3
PYTHON ?= $(shell for python in $(PYTHONS); do \
	$$python machine/interpreter.py >/dev/null 2>&1 && { echo $$python; break; }; done)
VENV := .venv
BIN := $(VENV)/bin

BACKEND := $(shell \
	if [ "$$(uname -s)" = Darwin ]; then :; \
	elif driver=$$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 | cut -d. -f1); \
		[ "$${driver:-0}" -ge 580 ] 2>/dev/null; then echo ,cuda13; \
	elif [ "$${driver:-0}" -ge 550 ] 2>/dev/null; then echo ,cuda12; \
	else echo ,cpu; fi)

.PHONY: setup demo test test-fast fuzz bench clean

setup: $(VENV)/.ready

# Made anew where it was begun and not ended, or where the Python that it links to is gone.
ifneq ($(shell test -e $(BIN)/python && test ! -e $(VENV)/.unfinished && echo whole),whole)
.PHONY: $(BIN)/python $(VENV)/.ready
endif

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		for python in $(PYTHONS); do $$python machine/interpreter.py 2>&1 | grep "is Python"; done; \
		echo "make setup needs Python 3.13, 3.12 or 3.11: on macOS 'brew install python@3.13', on Debian and Ubuntu" \
			"'sudo apt install python3 python3-venv'; or name one, 'make setup PYTHON=/path/to/python3.13'"; \
		exit 2; } >&2
	@$(PYTHON) machine/interpreter.py
	rm -rf $(VENV)
	mkdir $(VENV)
	touch $(VENV)/.unfinished
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml | $(BIN)/python
	@$(BIN)/python machine/interpreter.py || { echo "remove $(VENV), then run make setup again" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test,formats$(BACKEND)]"
	rm -f $(VENV)/.unfinished
	touch $@

demo: setup
	rm -rf runs/demo_unet
	test -f datasets/phantoms/dataset.json || $(BIN)/python -m data.synthetic.phantoms datasets/phantoms
	$(BIN)/python train.py --config configs/demo_unet.yaml
	$(BIN)/python evaluate.py --run runs/demo_unet --checkpoint last
	rm -rf runs/demo_clips runs/demo_clips_single_frame
	test -d datasets/moving_shapes || $(BIN)/python -m data.synthetic.moving_shapes datasets/moving_shapes
	$(BIN)/python train.py --config configs/demo_clips.yaml
	$(BIN)/python train.py --config configs/demo_clips.yaml name=demo_clips_single_frame data.clip.single_frame=true
	$(BIN)/python evaluate.py --run runs/demo_clips_single_frame --checkpoint last
	$(BIN)/python evaluate.py --run runs/demo_clips --checkpoint last --baseline runs/demo_clips_single_frame

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin
	$(BIN)/python -m pytest

test-fast: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -m "not slow"

fuzz: setup
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-1000} $(BIN)/python -m pytest tests/fuzz -s

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test,formats$(BACKEND),bench]"
	$(BIN)/python -m benchmarks.operators
	$(BIN)/python -m benchmarks.train_step

clean:
	rm -rf $(VENV) runs datasets/phantoms datasets/moving_shapes

# make setup   .venv with MLX's backend for this machine: Metal on a Mac, CUDA where a driver answers, else CPU
# make demo    phantoms -> train -> evaluate, then the same with clips; a few minutes on two cores
# make test    lint, format check, types, tests
# make bench   the training step against PyTorch, in one run
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

BACKEND := $(shell \
	if [ "$$(uname -s)" = Darwin ]; then :; \
	elif driver=$$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 | cut -d. -f1); \
		[ "$${driver:-0}" -ge 580 ] 2>/dev/null; then echo ,cuda13; \
	elif [ "$${driver:-0}" -ge 525 ] 2>/dev/null; then echo ,cuda12; \
	else echo ,cpu; fi)

.PHONY: setup demo test bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test$(BACKEND)]"
	touch $@

demo: setup
	rm -rf runs/demo_unet
	test -f datasets/phantoms/dataset.json || $(BIN)/python -m data.phantoms datasets/phantoms
	$(BIN)/python train.py --config configs/demo_unet.yaml
	$(BIN)/python evaluate.py --run runs/demo_unet --checkpoint last
	rm -rf runs/demo_clips runs/demo_clips_single_frame
	test -d datasets/moving_shapes || $(BIN)/python -m data.moving_shapes datasets/moving_shapes
	$(BIN)/python train.py --config configs/demo_clips.yaml
	$(BIN)/python train.py --config configs/demo_clips.yaml name=demo_clips_single_frame data.clip.single_frame=true
	$(BIN)/python evaluate.py --run runs/demo_clips_single_frame --checkpoint last
	$(BIN)/python evaluate.py --run runs/demo_clips --checkpoint last --baseline runs/demo_clips_single_frame

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test$(BACKEND),bench]"
	$(BIN)/python -m benchmarks.operators
	$(BIN)/python -m benchmarks.train_step

clean:
	rm -rf $(VENV) runs datasets/phantoms datasets/moving_shapes

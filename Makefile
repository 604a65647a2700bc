# Everything runs in the virtual environment .venv, which `make install` fills; the other commands call it when needed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
PIP := $(BIN)/python -m pip install -qq --no-compile --prefer-binary -c constraints.txt

TORCH := $(shell grep '^torch==' constraints.txt)
GPUS := $(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU')
RANKS ?= $(if $(filter 1,$(GPUS)),1,2)

export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install demo demo-long demo-frames demo-curate demo-lora test test-fast test-slurm curate-torture torture check bench bench-gpu bench-data bench-curate resources fuzz mutations image-check clean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile

install: $(STAMP)  ## create .venv and install the exact versions of constraints.txt

$(STAMP): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make install PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(GPUS),0)
	$(PIP) $(TORCH)+cpu 2>/dev/null || $(PIP) $(TORCH)
else
	$(PIP) $(TORCH)
endif
	DS_BUILD_OPS=0 $(PIP) -e .
	@touch $@

$(DEV_STAMP): $(STAMP)
	$(PIP) -e '.[dev]'
	@touch $@

DEMO := runs/demo
demo: install  ## render data, train the three stages in miniature, sample, score and plot: runs/demo
	@$(MAKE) --no-print-directory -j3 -Oline $(SET) $(LATER_SET) $(if $(filter 0,$(GPUS)),_cpu_op)
	@$(MAKE) --no-print-directory _base RUN=$(DEMO) CONFIG=configs/smoke/base.yaml CLIPS=2
	@$(MAKE) --no-print-directory _later RUN=$(DEMO)

LONG := max_train_steps=9000 validation_steps=1500 checkpointing_steps=1500 adam_beta2=0.99 ema_decay=0.998
demo-long: install  ## the base stage for about an hour: runs/demo-long
	@$(MAKE) --no-print-directory _base RUN=runs/demo-long CLIPS=4 CONFIG="configs/smoke/base.yaml output_dir=runs/demo-long/base $(LONG)"

# Every prompt of the held-out set twice, each in five segments that go there and back: of the rendered shapes each one
# crosses the whole frame within a clip, so that on its way on it would leave it.
define THERE_AND_BACK
from lavie.data.prepare.synthetic import HELD_OUT, clip_caption
BACK = {"left": "right", "right": "left", "up": "down", "down": "up"}
for colour, shape, way in HELD_OUT * 2:
    ways = [way, BACK[way]] * 2 + [way]
    print(*(clip_caption(colour, shape, f"moving {way}") for way in ways), sep="\n", end="\n\n")
endef
export THERE_AND_BACK

FRAMES := runs/demo-frames
LONG_CLIP := --stop-after base --set base.num_frames=26 --set base.overlap=1 --judge --overwrite
demo-frames: install  ## after demo: a base stage that takes frames, and how its long clips drift: runs/demo-frames
	@$(MAKE) --no-print-directory _frames

.PHONY: _frames
_frames: export OMP_NUM_THREADS ?= 1
_frames:
	mkdir -p $(FRAMES)
	python -c "$$THERE_AND_BACK" > $(FRAMES)/segments.txt
	sed '/^$$/d' $(FRAMES)/segments.txt | awk 'NR % 5 == 1' > $(FRAMES)/prompts.txt
	$(TRAIN) configs/smoke/base_frames.yaml resume_from_checkpoint=auto
	$(TRAIN) configs/smoke/base_frames.yaml resume_from_checkpoint=auto condition_noise_steps=0 output_dir=$(FRAMES)/clean/base
	for kind in noised clean; do \
	  lavie score --checkpoint $(FRAMES)/$$kind/base --out $(FRAMES)/$$kind --num 2 --overwrite && \
	  lavie generate --cascade $(FRAMES)/$$kind --out $(FRAMES)/recursion-$$kind $(LONG_CLIP) \
	    --method recursion --segment-prompts $(FRAMES)/segments.txt || exit 1; \
	  for clip in 0 1 2 3 4 5; do \
	    lavie generate --cascade $(FRAMES)/$$kind --out $(FRAMES)/given-$$kind/$$clip --stop-after base --overwrite \
	      --set base.overlap=1 --from-video $(FRAMES)/recursion-$$kind/0000$$clip-base.mp4 \
	      --prompt "$$(sed -n "$$((6 * clip + 2))p" $(FRAMES)/segments.txt)" || exit 1; \
	  done; \
	done
	lavie generate --cascade $(FRAMES)/noised --out $(FRAMES)/windows $(LONG_CLIP) --method windows --prompt-file $(FRAMES)/prompts.txt
	@echo
	@echo "drift of five segments            $(FRAMES)/recursion-noised/drift.json, recursion-clean/drift.json"
	@echo "beside windows with one prompt    $(FRAMES)/windows/drift.json"
	@echo "how well a given frame is kept    $(FRAMES)/given-noised/*/drift.json, given-clean/*/drift.json"
	@echo "the clips                         $(FRAMES)/*/sheet.png"

WORD := orange
WORD_RUN := runs/demo-lora
WORD_SET := max_train_steps=400 train_batch_size=4 data.num_images=4 learning_rate=2e-3 lora.rank=8 lora.targets=kohya
WORD_SET += gradient_checkpointing=false checkpointing_steps=200 validation_steps=200
demo-lora: export OMP_NUM_THREADS ?= 1
demo-lora: $(DEMO)/base  ## a colour that the demo's network never saw, learnt from 8 images: runs/demo-lora (after make demo)
	lavie lora word $(WORD_RUN)/images --word $(WORD) --overwrite
	lavie lora train $(WORD_RUN)/images --base $(DEMO)/base --out $(WORD_RUN)/run --prior-samples 36 \
	  $(foreach c,red green blue yellow magenta cyan,$(foreach s,circle square triangle,--prior "a $(c) $(s)")) $(WORD_SET)
	lavie lora score $(WORD_RUN)/run --word $(WORD) --out $(WORD_RUN) --overwrite
	@echo
	@echo "before and after                   $(WORD_RUN)/compare.png"
	@echo "what the judge sees                $(WORD_RUN)/compare.json"
	@echo

$(DEMO)/base:
	@echo "$@ is missing: make demo trains it" >&2; exit 1

CURATE_STAMP := $(VENV)/.installed-curate
$(CURATE_STAMP): $(STAMP)
	$(PIP) -e '.[curate]'
	@touch $@

CURATED := runs/demo-curate
demo-curate: $(CURATE_STAMP)  ## render raw films, and make a filtered, captioned set in shards of them: runs/demo-curate
	test -f $(CURATED)/films/captions.jsonl || lavie curate demo $(CURATED)/films
	lavie curate run $(CURATED)/films $(CURATED)/curation --shards $(CURATED)/shards --overwrite \
	  caption.captioner=sidecar:$(CURATED)/films/captions.jsonl select.min_side=72
	lavie data check $(CURATED)/shards
	@echo
	@echo "the report                         $(CURATED)/curation/report/index.html"
	@echo "shards, for data.train             $(CURATED)/shards"
	@echo

SET := $(DEMO)/data/validation/00000.index.jsonl
$(SET):
	rm -rf $(DEMO)/data
	lavie data demo $(DEMO)/data

LATER := --clips 600 --images 120 --size 96 --frames 9 --travel 0.25 0.66
LATER_SET := $(DEMO)/later/validation/00000.index.jsonl
$(LATER_SET):
	rm -rf $(DEMO)/later
	lavie data demo $(DEMO)/later $(LATER)

.PHONY: _cpu_op
_cpu_op:  # DeepSpeed compiles it once, at its first start on a CPU if not here, beside the rendering
	DS_ACCELERATOR=cpu python -c 'from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder as op; op().load()'

TRAIN := deepspeed --quiet --num_gpus $(RANKS) train.py --deepspeed configs/zero3.json

.PHONY: _base
_base: export OMP_NUM_THREADS ?= 1
_base: $(SET)
	$(TRAIN) $(CONFIG) resume_from_checkpoint=auto
	lavie score --checkpoint $(RUN)/base --out $(RUN) --num $(CLIPS) --overwrite
	lavie plot $(RUN)/base --out $(RUN)/losses.png --overwrite
	@echo
	@echo "videos of the validation prompts   $$(ls -d $(RUN)/base/samples/* | tail -1)"
	@echo "the run on one page                $(RUN)/base/report.html"
	@echo "clips of prompts never trained on  $(RUN)/clips.png"
	@echo "images drawn by the same network   $(RUN)/images.png"
	@echo "loss curves                        $(RUN)/losses.png"
	@echo "scores                             $(RUN)/score.json"
	@echo

PROMPT := a red circle moving up
# The small network has only ever seen patches of 8 x 8, and draws stripes along the edges of anything larger.
TILES := --set vsr.tile=[8,8] --set vsr.tile_overlap=4
.PHONY: _later
_later: export OMP_NUM_THREADS ?= 1
_later: $(LATER_SET)
	for stage in interpolation vsr; do \
	  $(TRAIN) configs/smoke/$$stage.yaml resume_from_checkpoint=auto && \
	  lavie score --checkpoint $(RUN)/$$stage --out $(RUN) --overwrite || exit 1; \
	done
	lavie generate --cascade $(RUN) --prompt "$(PROMPT)" --out $(RUN)/cascade $(TILES) --overwrite
	@echo
	@echo "what interpolation makes of clips  $(RUN)/interpolation.png, $(RUN)/score-interpolation.json"
	@echo "what super-resolution makes        $(RUN)/vsr.png, $(RUN)/score-vsr.json"
	@echo "one prompt through all stages      $(RUN)/cascade/sheet.png"
	@echo "its first clip beside its last     $(RUN)/cascade/00000.mp4"

test: $(DEV_STAMP)  ## run the whole test suite (three processes on two cores: tests of launchers wait)
	python -m pytest -n 3 --dist worksteal

test-fast: $(DEV_STAMP)  ## the tests that are not marked long or slow: under five minutes on two cores
	python -m pytest -n 3 --dist worksteal -m "not long and not slow"

curate-torture: $(DEV_STAMP)  ## a curation that is killed 40 times, in every stage: it ends with the same bytes
	python -m tests.curation.torture $(TORTURE)

torture: $(DEV_STAMP)  ## checkpoints under kills, errors, flipped bits and power cuts (root), beside DeepSpeed's own: counts
	python -m tests.training.torture $(TORTURE)

test-slurm: $(DEV_STAMP)  ## a job on a real SLURM of two nodes, interrupted 20 times (root; apt-get install slurm-wlm munge)
	LAVIE_SLURM_CYCLES=20 python -m pytest tests/launch/test_training.py --timeout 3600

check: $(DEV_STAMP)  ## lint, check the format and the types
	ruff check .
	ruff format --check .
	mypy

bench: $(DEV_STAMP)  ## all that bench-gpu does, on small shapes and without times, in Triton's interpreter
	TRITON_INTERPRET=1 python -m lavie.kernels.bench.pieces --dry-run

# A GPU often stands where no index of packages is reached: what is installed there is taken, if it suffices.
BENCH_NEEDS := import torch, triton, pydantic, yaml
MINUTES ?= 25
bench-gpu:  ## time the kernels beside their rivals, and the cascade, on the GPU: results.csv of both (MINUTES=9: a piece)
	@python=$(BIN)/python; \
	test -e $(STAMP) || { $(PYTHON) -c '$(BENCH_NEEDS)' 2>/dev/null && python=$(PYTHON); } || $(MAKE) --no-print-directory install || \
	  { echo "bench-gpu: without network, $(PYTHON) needs the packages torch, triton, pydantic and pyyaml" >&2; exit 1; }; \
	echo "bench-gpu runs by $$python; bench.cascade also needs diffusers, transformers, typer and rich"; \
	$$python -m lavie.kernels.bench.pieces --minutes $(MINUTES)

bench-curate: $(DEV_STAMP)  ## scan and cut of FILMS (default: a rendered one) beside PySceneDetect and ffmpeg, on one core
	python -m lavie.bench.curation $(FILMS)

WAIT := runs/bench-data
bench-data: $(DEV_STAMP)  ## frames per second of the loader beside the usual ways, and how long a training step waits for it
	python -m lavie.bench.loader
	test -f $(DEMO)/data/validation/00000.index.jsonl || { rm -rf $(DEMO)/data && lavie data demo $(DEMO)/data; }
	rm -rf $(WAIT)
	OMP_NUM_THREADS=1 $(TRAIN) configs/smoke/base.yaml output_dir=$(WAIT) max_train_steps=60 data.validation=[] validation_prompts=[]
	python -m lavie.bench.loader --metrics $(WAIT)/metrics.jsonl --batch $$((8 * $(RANKS)))

resources: $(DEV_STAMP)  ## compile the kernels for six architectures, compare with kernels/resources.csv; issue slots
	python -m lavie.kernels.resources
	python -m lavie.kernels.issue_slots

fuzz: $(DEV_STAMP)  ## 2,000 hostile and broken samples: counts per class
	python -m tests.data.prepare.fuzz --cases 2000

MUTATIONS ?= --count 60
mutations: $(DEV_STAMP)  ## put faults in on purpose, one at a time, and name those that no test notices: runs/mutations.json
	python -m tests.mutations.run $(MUTATIONS)

IMAGE := runs/image
IMAGE_PIP := venv/bin/python -m pip install -qq --no-cache-dir
image-check:  ## what Dockerfile runs and copies, in a virtual environment in place of a container
	rm -rf $(IMAGE) && mkdir -p $(IMAGE) && $(PYTHON) -m venv $(IMAGE)/venv
	cp -r $(shell sed -n 's/^COPY \(.*\) .*/\1/p' Dockerfile) $(IMAGE)
	cd $(IMAGE) && { $(IMAGE_PIP) $(TORCH)+cpu 2>/dev/null || $(IMAGE_PIP) $(TORCH); }
	cd $(IMAGE) && DS_BUILD_OPS=0 $(IMAGE_PIP) -c constraints.txt '.[remote]'
	cd $(IMAGE)/venv && env -u PYTHONPATH bin/lavie --version && env -u PYTHONPATH bin/lavie train --dry-run smoke/base.yaml | tail -3

clean:  ## remove .venv, caches and build products; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

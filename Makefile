# LIVEditor · ISA. COMFYUI_PATH=/path/to/ComfyUI uses that ComfyUI instead of fetching one.
PYTHON := .venv/bin/python

.PHONY: help setup bench-mini demo test test-fast long smoke data-demo fuzz fuzz-videos sweep matrix fresh same-numbers ui api check lint layers types clean

help:
	@echo "make demo         edit a real video end to end, headless, through the real ComfyUI server"
	@echo "make test         run the tests, all but the long ones"
	@echo "make test-fast    only those without a server, a browser and what takes long"
	@echo "make long         run the few tests of whole commands and jobs that take minutes each"
	@echo "make smoke        run what a newer ComfyUI would break first: COMFYUI_PATH=/path/to/ComfyUI make smoke"
	@echo "make fuzz         try random requests, settings and files for long (EXAMPLES=5000 of each)"
	@echo "make sweep        read COMBINATIONS=600 kinds of video, compare them with ffmpeg's own reading, edit each on a real server"
	@echo "make fuzz-videos  damage FILES=2000 videos and have a real ComfyUI server edit each"
	@echo "make matrix       run the tests that need no ComfyUI under each Python from 3.10 to 3.13 that is here"
	@echo "make fresh        install each extra into an environment of its own, and run there what its pages print"
	@echo "make same-numbers print fingerprints of outputs on fixed seeds; COMPARE=FILE names what is not as in FILE"
	@echo "make bench-mini   edit and score the clips of LIVEditor-Bench-mini with the included editor, under every preset"
	@echo "make data-demo    real clips to training triplets with the included editor, and a page about it"
	@echo "make ui           open ComfyUI with this pack"
	@echo "make api          build the API reference from the docstrings, build/api/index.html"
	@echo "make check        lint, layers and types, which are also targets of their own"
	@echo "make clean        remove what the commands above made (.venv, .comfyui, .cache, output)"

setup:
	@python3 scripts/setup.py

demo: setup
	@$(PYTHON) scripts/demo.py

test:
	@python3 scripts/setup.py --browser
	@# Files in the order that tests/conftest.py puts them into.
	@$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not long"

# Markers: pyproject.toml says what they mean, tests/conftest.py sets the first two.
test-fast: setup
	@$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not server and not browser and not slow and not long"

long:
	@python3 scripts/setup.py --browser
	@$(PYTHON) -m pytest -m long

SMOKE := comfyui/test_core.py comfyui/test_core_nodes.py comfyui/test_attach.py comfyui/test_hosts.py comfyui/test_loaders.py nodes/test_server.py \
	nodes/test_core_models.py web/test_page.py web/test_templates.py
smoke:
	@python3 scripts/setup.py --browser
	@$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(SMOKE:%=tests/%)

EXAMPLES := 5000
fuzz: setup
	@FUZZ_EXAMPLES=$(EXAMPLES) $(PYTHON) -m pytest -n 2 tests/nodes/test_fuzz.py

COMBINATIONS := 600
sweep: setup
	@$(PYTHON) scripts/sweep_videos.py --combinations $(COMBINATIONS) --out benchmarks/results/videos-$(shell date +%F).json

FILES := 2000
fuzz-videos: setup
	@$(PYTHON) scripts/fuzz_videos.py --files $(FILES) --out benchmarks/results/damaged-videos-$(shell date +%F).json

matrix: setup
	@$(PYTHON) scripts/matrix.py $(PYTHONS)

fresh: setup
	@$(PYTHON) scripts/fresh_installs.py

same-numbers: setup
	@$(PYTHON) scripts/same_numbers.py $(if $(COMPARE),--compare $(COMPARE))

bench-mini: setup
	@$(PYTHON) -m liveditor_isa.benchmarks.evaluation.mini

data-demo: setup
	@$(PYTHON) -m liveditor_isa data demo --out output/data-demo

ui: setup
	@$(PYTHON) scripts/ui.py

# Built and not kept in the repository: a copy would fall behind the docstrings.
api: setup
	@$(PYTHON) -m pip install -q -r requirements/api.txt
	@$(PYTHON) -m pdoc -o build/api liveditor_isa.isa_core liveditor_isa.pipelines liveditor_isa.runtime liveditor_isa.serve

# Style; which folder imports which (docs/architecture.md); types in the layers without a host.
check: lint layers types

lint: setup
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .

layers: setup
	@$(PYTHON) scripts/layers.py

types: setup
	@$(PYTHON) scripts/typecheck.py

clean:
	rm -rf .venv .comfyui .cache output build *.egg-info .pytest_cache .ruff_cache .hypothesis

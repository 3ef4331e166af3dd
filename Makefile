# Two commands on a fresh machine with Python 3.11 or newer: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo learning test slow lint fuzz scaling bench passes cost parity sizes hybrids portability clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,test,lint]'
	touch $@

# The main job on a real brain: tissue of the MNI152 template, which the package nilearn ships; and three small networks
# that learn its lobes, two side by side, which takes two cores some minutes.
demo: .venv/ready
	@mkdir -p demo
	$(BIN)/composer show unet:demo
	$(BIN)/composer show swin_unet --svg demo/swin_unet.svg
	$(BIN)/composer run unet:demo "$$($(BIN)/python benchmarks/template.py)" -o demo/tissue.nii.gz \
		--weights blueprints/weights/unet_demo.safetensors size=[96,96,96] --overlap 0.25 --names 'grey matter,white matter'
	$(BIN)/python benchmarks/demo.py demo
	@echo
	@echo "The picture: demo/tissue.png   the label map: demo/tissue.nii.gz   the network's figure: demo/swin_unet.svg"

# Every segmentation network, small, learns those lobes: some 45 minutes of one core. Interrupted, the same goes on.
learning: .venv/ready
	$(BIN)/python benchmarks/learning.py --out learning --page docs/learning.md $(LEARNING)

# Two workers of one thread each: two threads each would wait for one another.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q -m "not slow"

# Published sizes of more than 100 GFLOP, and other long cases.
slow: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q -m slow

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Random compositions, built and run on `meta`, and mutated blueprints: 20,000 of each.
fuzz: .venv/ready
	$(BIN)/python benchmarks/fuzz.py

scaling: .venv/ready
	$(BIN)/python benchmarks/scaling.py

# Every network beside its references that pip can install: times, peaks, differences; what a node and a start cost.
bench: .venv/ready
	$(BIN)/python benchmarks/references.py $(BENCH)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/building.py

# What each pass is worth, and whether the cost model says what really happens.
passes: .venv/ready
	$(BIN)/python benchmarks/passes.py

cost: .venv/ready
	$(BIN)/python benchmarks/cost.py

# Every published network beside the output that its official code computed.
parity: .venv/ready
	$(BIN)/python benchmarks/parity.py $(PARITY)

# Every blueprint and preset at the sizes 1..300 of each axis: what its rules say, and whether it runs.
sizes: .venv/ready
	$(BIN)/python benchmarks/sizes.py $(SIZES)

# Lines and losses of the shipped hybrids.
hybrids: .venv/ready
	$(BIN)/python benchmarks/hybrids.py

# Every blueprint, small, in every format: `make portability PORTABILITY=--open` also traces open sizes.
portability: .venv/ready
	$(BIN)/python benchmarks/portability.py $(PORTABILITY)

clean:
	rm -rf .venv demo learning build dist

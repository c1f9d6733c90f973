# SPDX-License-Identifier: MIT
# The commands of the project; each makes what it needs.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help book test status serve notebooks address release-check mutants clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(READY): requirements.txt pyproject.toml tools/install.py
	@$(PYTHON) tools/install.py $(VENV)

book: $(READY)  ## build both editions into _build/html
	@$(PY) tools/build.py

test: $(READY)  ## style, types, all tests, and every notebook compared with its stored outputs
	@$(PY) tools/check.py

status: $(READY)  ## the same, and then the notebooks' times and versions on the page of status
	@$(PY) tools/check.py --status

serve: $(READY)  ## serve the built book on http://localhost:8000
	@$(PY) -m http.server 8000 --bind localhost --directory _build/html

notebooks: $(READY)  ## execute the English notebooks and carry code and outputs to the Chinese ones
	@$(PY) tools/notebooks.py execute

address: $(READY)  ## set the repository's address everywhere: make address URL=https://github.com/...
	@$(PY) tools/address.py "$(URL)"

release-check: $(READY)  ## the notebooks with other thread counts and as on an older processor
	@$(PY) tools/release_check.py

mutants: $(READY)  ## which small mistakes in the package the tests would notice; takes hours
	@$(PY) -m pip install --quiet cosmic-ray==8.7.0
	@PYTHONPATH=. $(PY) tools/mutation.py --jobs 2

clean:  ## remove what the commands made
	rm -rf $(VENV) _build .pytest_cache .mypy_cache .ruff_cache *.egg-info

# What a person types. `make help` lists it; the README says how to do the same without make.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
LOWEST := .lowest
# A stamp is removed before anything is installed and written when all is; it says where for.
# So an interrupted installation, a moved folder or a lost Python starts from an empty .venv.
STAMP := $(VENV)/installed
INSTALLED_FOR := $(shell test -x $(PY) && cat $(STAMP) 2>/dev/null)

# uv installs in a fraction of pip's time. It reads none of pip's settings, so where pip has been
# told where to look, pip installs; `make UV= …` leaves uv out too. PyPI's torch for Linux is the
# build for NVIDIA's cards, several GB of it: without such a card uv takes the one for the CPU.
UV ?= $(shell command -v uv)
BY_UV = $(and $(UV),$(if $(shell $(PYTHON) -m pip config list 2>/dev/null | \
	grep -E 'index-url|find-links|no-index'),,yes))
CARD := $(filter-out Linux,$(shell uname))$(shell command -v nvidia-smi)
UV_TORCH_BACKEND ?= $(if $(CARD),,cpu)
# Modules are compiled when they are first imported, and most never are.
INSTALL = $(if $(BY_UV),env $(if $(UV_TORCH_BACKEND),,-u )UV_TORCH_BACKEND$(if \
	$(UV_TORCH_BACKEND),=$(UV_TORCH_BACKEND)) $(UV) pip install --python $(PY),$(PY) -m pip \
	install --no-compile --disable-pip-version-check) -c constraints.txt
NEW_VENV = $(if $(BY_UV),$(UV) venv --quiet --clear --python $(PYTHON),$(PYTHON) -m venv --clear)

# Without a screen, or with NO_BROWSER=1, JupyterLab prints its address and opens nothing.
SCREEN := $(filter Darwin,$(shell uname))$(DISPLAY)$(WAYLAND_DISPLAY)
LAB := --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=notebooks \
	--ServerApp.log_level=WARN --LabApp.log_level=WARN \
	--LabApp.default_url=/lab/tree/00_start_here.ipynb \
	--ServerApp.kernel_websocket_connection_class=llmviz.lab.PromptConnection \
	$(if $(SCREEN),$(if $(NO_BROWSER),--no-browser),--no-browser) \
	$(if $(filter 0,$(shell id -u)),--allow-root)

CHROMIUM := $(or $(CHROMIUM),$(shell \
	command -v chromium || command -v chromium-browser || command -v google-chrome))
export CHROMIUM

MODEL := $(PY) -c "from llmviz.default_model import default_model_folder; default_model_folder()"

# A file is one worker's, and a worker has one thread: more would wait for each other.
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist loadscope --no-loadscope-reorder
# The lessons are run once, and kept as they ran for the browser to show.
RAN := $(VENV)/executed
NBVAL := -p tests.nbval_tolerance --nbval --nbval-current-env --nbval-cell-timeout=300 \
	--executed=$(RAN)

.PHONY: help lab test chromium notebooks constraints lowest clean model

help:
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' Makefile

lab: model ## open the first lesson in JupyterLab; the first time, install all it needs
	@$(PY) -m jupyterlab $(LAB)

test: chromium $(STAMP)-test ## check the style, and run all tests and all lessons
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	@rm -rf $(RAN)
	@$(MODEL) & OMP_NUM_THREADS=1 $(PY) -m pytest $(SIDE_BY_SIDE) $(NBVAL) \
		$(if $(CHROMIUM),,--ignore=tests/browser) tests notebooks

chromium:
	@$(if $(CHROMIUM),:,echo "The browser tests are left out: no Chromium was found."; \
		$(if $(filter true,$(CI)),exit 1))

notebooks: $(STAMP)-test model ## run all lessons and save them with what they print
	@$(PY) -m tests.save_notebooks

constraints: $(STAMP) ## pin again (make constraints UPGRADE=--upgrade takes the newest versions)
	@$(PY) -m pip install --quiet uv
	$(PY) -m uv pip compile --quiet --universal --python-version 3.10 --all-extras --no-annotate \
		--no-emit-package pip --custom-compile-command "make constraints" $(UPGRADE) \
		pyproject.toml -o constraints.txt

# torch, with what it links to, is that of .venv.
SITE := -c "import sysconfig; print(sysconfig.get_path('purelib'))"
TORCH := torch* functorch* triton* nvidia* cuda*
lowest: $(STAMP)-test ## run the unit tests with the lowest versions that pyproject.toml allows
	@$(PY) -m pip install --quiet uv
	@$(PYTHON) -m venv --clear $(LOWEST)
	@cd "$$($(PY) $(SITE))" && ln -s $$(ls -d $(addprefix "$$PWD"/,$(TORCH)) 2>/dev/null) \
		"$$($(CURDIR)/$(LOWEST)/bin/python $(SITE))"
	$(PY) -m uv pip compile --quiet --resolution lowest-direct --all-extras --no-annotate \
		pyproject.toml | grep -vE '^(torch|pip|triton|cuda.*|nvidia.*)==' > $(LOWEST)/versions.txt
	$(LOWEST)/bin/python -m pip install --quiet --no-compile --no-deps -r $(LOWEST)/versions.txt -e .
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest $(SIDE_BY_SIDE) --ignore=tests/browser \
		--deselect tests/test_setup.py::test_installed_versions_are_the_pinned_ones tests

clean: ## remove the installed packages; the model stays in your cache
	rm -rf $(VENV) $(LOWEST)

model: $(STAMP)
	@$(MODEL)

# Of two makes at once one installs and the other waits, then looks again at what is there. The lock
# is the Makefile's own, and ends with the make that holds it. Where there are no locks, none is held.
define ALONE
import os, sys
try:
    import fcntl
    makefile = os.open("Makefile", os.O_RDONLY)
    os.set_inheritable(makefile, True)
    try:
        fcntl.flock(makefile, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another make is installing here; waiting for it.", flush=True)
        fcntl.flock(makefile, fcntl.LOCK_EX)
except (ImportError, OSError):
    pass
os.execvp(sys.argv[1], sys.argv[1:])
endef
export ALONE

ifneq ($(INSTALLED_FOR),$(CURDIR))
.PHONY: $(STAMP)
endif
ifndef LOCKED
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))" || { echo \
		"Python 3.10 to 3.14 is needed, and $(PYTHON) is not one: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -c "$$ALONE" $(MAKE) --no-print-directory LOCKED=1 $@

$(STAMP)-test: $(STAMP)
	@$(PYTHON) -c "$$ALONE" $(MAKE) --no-print-directory LOCKED=1 $@
else
# The last step spares the first lesson a warning, that matplotlib is looking for fonts.
$(STAMP): pyproject.toml constraints.txt
	@test "$(INSTALLED_FOR)" = "$(CURDIR)" || $(NEW_VENV) $(VENV)
	@rm -f $(STAMP) $(STAMP)-test
	$(INSTALL) -e ".[lab,default-model]"
	@mkdir -p $(VENV)/share/jupyter/lab/settings
	@$(PY) -m llmviz.lab > $(VENV)/share/jupyter/lab/settings/overrides.json
	@$(PY) -c "import matplotlib.font_manager"
	@echo "$(CURDIR)" > $@

$(STAMP)-test: $(STAMP)
	@rm -f $(STAMP)
	$(INSTALL) -e ".[lab,default-model,test]"
	@echo "$(CURDIR)" > $(STAMP)
	@touch $@
endif

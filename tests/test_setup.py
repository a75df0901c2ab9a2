"""What is installed, pinned, declared and imported, held against one another."""

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import llmviz

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def by_name(requirements: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(r.name): r for r in map(Requirement, requirements)}


CORE = by_name(PROJECT["dependencies"])
EXTRAS = {name: by_name(wanted) for name, wanted in PROJECT["optional-dependencies"].items()}
# What the README's commands install, for the lessons; and what `make test` adds.
LESSONS = {**CORE, **EXTRAS["lab"], **EXTRAS["default-model"]}
TEST = EXTRAS["test"]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    if line.strip() and not line.startswith("#")
]
WITH_EXTRAS = ".[lab,default-model]"
# Names of import packages that differ from those of their distributions.
DISTRIBUTION = {"PIL": "pillow", "yaml": "pyyaml", "tomli": "pytest", "IPython": "ipython"}
# What a declared package cannot be without, and may be imported too.
COMES_ALONG = {
    "ipykernel": "jupyterlab", "ipython": "ipywidgets", "jupyter-server": "jupyterlab",
    "tokenizers": "transformers", "traitlets": "ipywidgets", "typing-extensions": "torch",
}  # fmt: skip


def version_of(pin: Requirement) -> Version:
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return Version(specifier.version)


def pins_for(python: str) -> dict[str, Version]:
    """The pinned versions on Linux with that Python."""
    environment = {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.9",
    }
    return {
        canonicalize_name(pin.name): version_of(pin)
        for pin in PINS
        if pin.marker is None or pin.marker.evaluate(environment)
    }


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in done.stdout.splitlines() if (path := ROOT / name).is_file()]


def imports(source: str) -> set[str]:
    """The top-level names of the modules that `source` imports, relative ones left out."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def undeclared(source: str, declared: set[str]) -> set[str]:
    foreign = imports(source) - set(sys.stdlib_module_names) - {"llmviz", "tests", "benchmarks"}
    names = {canonicalize_name(DISTRIBUTION.get(name, name)) for name in foreign}
    return {name for name in names if COMES_ALONG.get(name, name) not in declared}


# The distribution.


def test_the_name_is_not_that_of_somebody_elses_package():
    assert PROJECT["name"] == llmviz.__distribution__ == "llmviz-course"
    assert metadata.version("llmviz-course") == llmviz.__version__


def test_every_folder_of_the_package_is_shipped():
    folders = {path.parent for path in (ROOT / "llmviz").rglob("__init__.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert set(tomllib.loads(text)["tool"]["setuptools"]["packages"]) == names


def test_what_editors_read_is_shipped(tmp_path):
    """With the package, and on the path of an installation with -e, not behind an import hook."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "llmviz"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    build = "import setuptools.build_meta as b; print(b.build_wheel('.'), b.build_editable('.'))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    wheel, editable = done.stdout.split()[-2:]
    with zipfile.ZipFile(tmp_path / wheel) as built:
        shipped = {name for name in built.namelist() if name.startswith("llmviz/")}
    in_folder = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "llmviz").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == in_folder and {"llmviz/py.typed", "llmviz/__init__.pyi"} <= shipped
    with zipfile.ZipFile(tmp_path / editable) as built:
        paths = [built.read(name).decode() for name in built.namelist() if name.endswith(".pth")]
    assert [Path(path.strip()).resolve() for path in paths] == [tmp_path.resolve()]


def test_a_foreign_package_of_that_name_is_recognised(tmp_path):
    (tmp_path / "llmviz").mkdir()
    (tmp_path / "llmviz" / "__init__.py").write_text("__version__ = '0.4'\n")
    program = "import llmviz; print(getattr(llmviz, '__distribution__', 'foreign'))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "foreign\n", done.stderr


# Declared, pinned, installed.


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_each_dependency_has_one_pin_within_its_range(python):
    pins = pins_for(python)
    for name, requirement in {**LESSONS, **TEST}.items():
        if name == "pip":  # pinned, it would have to replace itself while it runs
            assert name not in pins
            continue
        assert pins[name] in requirement.specifier, f"{name} {pins[name]} on Python {python}"


def test_pins_are_exact_and_name_no_index():
    for pin in PINS:
        assert pin.url is None and version_of(pin).local is None
    assert pins_for("3.12")["torch"] == Version("2.13.0")


def test_installed_versions_are_the_pinned_ones():
    python = "{}.{}".format(*sys.version_info)
    differing = {}
    for name, pinned in pins_for(python).items():
        try:
            installed = Version(metadata.version(name))
        except metadata.PackageNotFoundError:
            if name in LESSONS or name in TEST:
                differing[name] = "not installed"
            continue  # such as CUDA's packages, which the CPU build of torch does without
        if installed.public != str(pinned):  # a local tag names a build, such as +cpu
            differing[name] = f"{installed}, pinned {pinned}"
    assert not differing


def test_environment_yml_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    assert environment["name"] == PROJECT["name"]
    assert "conda-forge" in environment["channels"]
    python, pip, by_pip = environment["dependencies"]
    name, _, version = python.partition("=")
    assert name == "python" and Version(version) in SpecifierSet(PROJECT["requires-python"])
    assert Requirement(pip).specifier == LESSONS["pip"].specifier
    assert by_pip == {"pip": ["-c constraints.txt", f"-e {WITH_EXTRAS}"]}


@pytest.mark.parametrize("name", ["Makefile", "README.md", "environment.yml"])
def test_every_way_in_installs_what_the_lessons_need(name):
    """The core and the extras `lab` and `default-model`, in the versions of constraints.txt."""
    text = (ROOT / name).read_text("utf-8")
    ways = [line for line in text.splitlines() if re.search(r"\B-e \"?\.", line)]
    ways = [line for line in ways if "--no-deps" not in line]
    assert ways
    for way in ways:
        (extras,) = re.findall(r"-e \"?\.\[([\w,-]+)\]", way)
        assert {"lab", "default-model"} <= set(extras.split(",")), way


# Installed by make, with stand-ins for Python, which write down what they were asked.

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
PYTHON = """#!/bin/sh
case "$*" in
*"-m venv"*)
    echo venv >> asked
    rm -rf .venv
    sleep 1
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python ;;
*"-m pip config"*)
    cat told 2>/dev/null ;;
*"-m pip install"*)
    echo pip >> asked
    sleep 1
    test -e .venv/bin/python || echo wiped >> asked ;;
*"-m jupyterlab"*)
    test -e .venv/installed && echo lab >> asked ;;
*import\\ os*|*version_info*)
    exec {python} "$@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder with the Makefile and a Python for it, and how make is called there."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    python = tmp_path / "python"
    python.write_text(PYTHON.format(python=sys.executable))
    python.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}

    def start(*goals, uv=""):
        command = ["make", f"PYTHON={python}", f"UV={uv}", *goals]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, start_new_session=True, **pipes
        )

    return start, tmp_path / "asked"


UV = """#!/bin/sh
case "$1" in
venv) echo uv-venv >> asked; mkdir -p .venv/bin; cp "{python}" .venv/bin/python ;;
pip) echo "uv-pip:$UV_TORCH_BACKEND" >> asked ;;
esac
"""


@needs_make
@pytest.mark.parametrize(
    ("settings", "asked_for"),
    [
        ({"CARD": ""}, ["uv-venv", "uv-pip:cpu"]),
        ({"CARD": "nvidia-smi"}, ["uv-venv", "uv-pip:"]),
        ({"CARD": "", "UV_TORCH_BACKEND": ""}, ["uv-venv", "uv-pip:"]),
        ({"CARD": "nvidia-smi", "UV_TORCH_BACKEND": "cu126"}, ["uv-venv", "uv-pip:cu126"]),
        ({"told": "global.find-links='/somewhere'"}, ["venv", "pip"]),
        ({"told": ":env:.index-url='https://somewhere'"}, ["venv", "pip"]),
        ({"told": "global.timeout='60'", "CARD": ""}, ["uv-venv", "uv-pip:cpu"]),
    ],
    ids=str,
)
def test_uv_installs_where_it_is_and_pip_was_not_told_where_to_look(checkout, settings, asked_for):
    """And takes the torch for the CPU where there is no NVIDIA card, unless told otherwise."""
    start, asked = checkout
    folder = asked.parent
    (folder / "uv").write_text(UV.format(python=folder / "python"))
    (folder / "uv").chmod(0o755)
    (folder / "told").write_text(settings.get("told", ""))
    given = [f"{name}={value}" for name, value in settings.items() if name != "told"]
    make = start("lab", *given, uv=folder / "uv")
    said, _ = make.communicate(timeout=60)
    assert make.returncode == 0, said
    assert asked.read_text().split() == [*asked_for, "lab"]


@needs_make
def test_two_first_make_lab_at_once(checkout):
    """The second waits for the first's installation, and neither wipes the other's."""
    start, asked = checkout
    makes = [start("lab"), start("lab")]
    said = [make.communicate(timeout=60)[0] for make in makes]
    assert [make.returncode for make in makes] == [0, 0], said
    assert asked.read_text().split() == ["venv", "pip", "lab", "lab"]
    assert any("Another make is installing here" in text for text in said)


@needs_make
def test_make_lab_again(checkout):
    start, asked = checkout
    for _ in range(2):
        make = start("lab")
        assert not make.communicate(timeout=60)[0].startswith("make: ***") and not make.returncode
    assert asked.read_text().split() == ["venv", "pip", "lab", "lab"]


@needs_make
def test_a_make_that_was_killed_leaves_no_lock(checkout):
    start, asked = checkout
    first = start("lab")
    while not asked.exists():
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=60)
    second = start("lab")
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 0, said
    assert asked.read_text().split()[-3:] == ["venv", "pip", "lab"]


@needs_make
def test_a_moved_folder_is_installed_anew(checkout):
    start, asked = checkout
    start("lab").communicate(timeout=60)
    (asked.parent / ".venv" / "installed").write_text("/elsewhere\n")
    assert start("lab").wait(60) == 0
    assert asked.read_text().split() == ["venv", "pip", "lab"] * 2


# Imported.


def test_the_package_imports_what_it_declares():
    """Each file imports from the core alone, but for two that belong to an extra."""
    extra_of = {"lab.py": "lab", "default_model.py": "default-model"}
    found = {}
    for path in (ROOT / "llmviz").rglob("*.py"):
        declared = {**CORE, **EXTRAS.get(extra_of.get(path.name), {})}
        found[str(path)] = undeclared(path.read_text("utf-8"), set(declared))
    assert not {name: names for name, names in found.items() if names}


def test_the_core_is_imported_or_needed_by_what_is():
    """What is declared is imported; the others stand here with what cannot work without them."""
    needed = {
        "accelerate": "transformers' device_map",
        "anywidget": "the explorers",
        "jinja2": "transformers' chat templates",
        "safetensors": "transformers' weights",
    }
    imported = set()
    for path in (ROOT / "llmviz").rglob("*.py"):
        names = imports(path.read_text("utf-8"))
        imported |= {canonicalize_name(DISTRIBUTION.get(name, name)) for name in names}
    assert not set(CORE) - imported - set(needed)


def test_lessons_import_what_is_installed_for_them():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                code = re.sub(r"^\s*[%!].*$", "pass", cell.source, flags=re.MULTILINE)
                assert not undeclared(code, set(LESSONS)), path.name


def test_the_tests_import_what_is_declared():
    for path in (ROOT / "tests").rglob("*.py"):
        assert not undeclared(path.read_text("utf-8"), {*LESSONS, *TEST}), path.name


# Said.

# Spelled so that this file does not contain what it looks for.
NOT_SAID = {
    "another's package": r"pip3? install (-\S+ )*llm[v]iz(?!-course)",
    "a path on one machine": r"(?<![\w.:/<])/(?:wor[k]|roo[t]|hom[e]|User[s]|opt/whee[l]s)/",
    "a package index": r"https?://[\w.-]*(?:p[y]pi|pythonhoste[d]|pytorc[h]\.org/whl|artifactor[y])",
}


@pytest.mark.parametrize("what", NOT_SAID)
def test_no_file_says(what):
    pattern = re.compile(NOT_SAID[what])
    found = []
    for path in tracked_files():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:  # a picture
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert not found


def test_what_is_not_said_would_be_found():
    said = {
        "another's package": "pip install -U llm" + "viz",
        "a path on one machine": "in /wor" + "k/main",
        "a package index": "https://download.pytorc" + "h.org/whl/cpu",
    }
    for what, text in said.items():
        assert re.search(NOT_SAID[what], text)
    assert not re.search(NOT_SAID["another's package"], "pip install llmviz-course")


@pytest.mark.parametrize(("ci", "code"), [("true", 2), ("", 0)])
def test_a_green_ci_has_run_the_browser_tests(ci, code):
    done = subprocess.run(
        ["make", "chromium", "CHROMIUM="], cwd=ROOT, env=os.environ | {"CI": ci},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code and "browser tests are left out" in done.stdout

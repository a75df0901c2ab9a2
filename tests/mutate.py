"""Break the package on purpose, one line at a time, and see whether the tests notice.

    python -m tests.mutate [--count 50] [--seed 0] [--tree FOLDER] [--only llmviz/html.py …]

Every change is one operator, constant or condition, in a copy of the tree; the changes are spread
over all modules by their length, and the same for the same seed and tree. For each, the unit tests
that speak most of the module's names are run until one fails. Prints what was caught, and what was
not, for a person to judge: some changes make no difference. Takes about half a minute a change.
"""

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = 4  # of tests for a module
SLOW = {"test_benchmarks.py", "test_devices.py", "test_fuzz.py", "test_readme.py", "test_setup.py",
        "test_default_model.py", "test_nbval_tolerance.py", "test_typing.py"}  # fmt: skip
OTHER = {
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "in": "not in",
    "not in": "in", "is": "is not", "is not": "is", "and": "or", "or": "and", "+": "-", "-": "+",
    "*": "/", "/": "*", "//": "/", "%": "//", "**": "*", "|": "&", "&": "|",
    "True": "False", "False": "True", "0": "1", "1": "2", "-1": "-2", "not ": "",
}  # fmt: skip
Change = tuple[int, int, int, str, str]  # line from 0, columns, what stands there, what comes


def changes(source: str) -> list[Change]:
    """All changes of one line that a module offers."""
    lines = source.encode().split(b"\n")  # ast counts bytes
    found = []

    def offer(line: int, start: int, end: int) -> None:
        old = lines[line - 1][start:end].decode()
        if (word := old.strip()) in OTHER or old in OTHER:
            new = OTHER[old] if old in OTHER else old.replace(word, OTHER[word])
            found.append((line - 1, start, end, old, new))

    def between(left: ast.expr, right: ast.expr) -> None:
        if left.end_lineno == right.lineno:
            offer(left.end_lineno, left.end_col_offset, right.col_offset)

    for node in _code(ast.parse(source)):
        if isinstance(node, ast.Compare):
            for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
                between(left, right)
        elif isinstance(node, ast.BinOp):
            between(node.left, node.right)
        elif isinstance(node, ast.BoolOp):
            between(*node.values[:2])
        elif isinstance(node, ast.UnaryOp) and node.lineno == node.operand.lineno:
            is_minus_one = isinstance(node.operand, ast.Constant) and node.operand.value == 1
            end = node.operand.end_col_offset if is_minus_one else node.operand.col_offset
            offer(node.lineno, node.col_offset, end)
        elif isinstance(node, ast.Constant):
            offer(node.lineno, node.col_offset, node.end_col_offset)
    return sorted(set(found))


def _code(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that are run: no annotations."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns"):
                values = value if isinstance(value, list) else [value]
                waiting += [v for v in values if isinstance(v, ast.AST)]


def chosen(tree: Path, only: list[str], count: int, seed: int) -> list[tuple[Path, Change]]:
    """`count` changes, spread over the modules as their lines are."""
    modules = [tree / name for name in only] or sorted((tree / "llmviz").rglob("*.py"))
    everything = [(module, change) for module in modules for change in changes(module.read_text())]
    step = len(everything) / count
    start = random.Random(seed).uniform(0, step)
    return [everything[int(start + number * step)] for number in range(count)]


def tests_of(module: Path, tree: Path) -> list[Path]:
    """The test files that are called as a module or its room is, or speak most of what it holds."""
    if module.stem == "arguments":  # of which nothing is said by name
        return [tree / "tests" / "test_fuzz.py"]
    body = ast.parse(module.read_text()).body
    names = {n.name for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    names = {name for name in names if not name.startswith("_")} | {module.stem}
    words = re.compile(rf"\b(?:{'|'.join(sorted(names))})\b")

    def said(file: Path) -> tuple[bool, bool, int]:
        name = file.stem.removeprefix("test_")
        own = module.stem in name or name in module.stem
        return own, module.parent.name in name, len(words.findall(file.read_text()))

    files = [f for f in (tree / "tests").glob("test_*.py") if f.name not in SLOW and any(said(f))]
    return sorted(sorted(files), key=said, reverse=True)[:FILES]


def passes(tree: Path, files: list[Path]) -> bool:
    """Whether the tests pass; one that hangs does not."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        *map(str, files),
    ]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=600)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tree", type=Path, default=ROOT)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "tree"
        hidden = shutil.ignore_patterns(".*", "__pycache__", "screenshots")
        shutil.copytree(options.tree, tree, ignore=hidden)
        whole, caught, tried = {}, 0, 0
        for module, (line, start, end, old, new) in chosen(
            tree, options.only, options.count, options.seed
        ):
            files, text = tests_of(module, tree), module.read_bytes()
            where = f"{module.relative_to(tree)}:{line + 1}"
            key = tuple(files)
            if key not in whole:
                whole[key] = bool(files) and passes(tree, files)
            if not whole[key]:
                print(
                    f"skipped  {where}: its tests fail without a change, or there are none",
                    flush=True,
                )
                continue
            lines = text.split(b"\n")
            lines[line] = lines[line][:start] + new.encode() + lines[line][end:]
            module.write_bytes(b"\n".join(lines))
            found = not passes(tree, files)
            module.write_bytes(text)
            tried, caught = tried + 1, caught + found
            said = lines[line].decode().strip()
            verdict = "caught  " if found else "SURVIVED"
            print(
                f"{verdict} {where}: {old.strip()} → {new.strip() or '(nothing)'}: {said}",
                flush=True,
            )
    print(f"{caught} of {tried} changes were caught")


if __name__ == "__main__":
    main()

"""The numeric comparison of notebook outputs, alone and inside nbval."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import nbformat.v4 as nb
import pytest

from tests.nbval_tolerance import Output

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("p = 0.123", "p = 0.124"),
        ("p = 0.999", "p = 1.000"),
        ("-0.001", "0.000"),
        ("1.2345678e-07", "1.2345679e-07"),
        ("loss 8123.4567", "loss 8123.9"),
        ("<td>0.5312</td>", "<td>0.5311</td>"),
        ("width:12.5%", "width:12.6%"),
        ("llmviz 0.1.0 · torch 2.13.0 · cpu\n3", "llmviz 0.2.0 · torch 2.14.0+cu130 · cuda:0\n3"),
    ],
)
def test_same(a, b):
    assert Output(a) == Output(b)
    assert (Output(a) != Output(b)) is False  # nbval asks with !=


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("p = 0.123", "p = 0.125"),
        ("p = 0.123", "q = 0.123"),
        ("p = 0.123", "p = 0.123 0.123"),
        ("p = 1", "p = 1.0"),
        ("rank 11", "rank 12"),
        ("token 49152", "token 49153"),
        ("1,234 parameters", "1,235 parameters"),
        ("torch 2.13.0", "torch 2.13.1"),
        ("#1f77b4", "#1f77b5"),
        ("gpt2", "gpt3"),
        ("0.500 cat", "0.500  cat"),
        ("inf", "nan"),
        ("llmviz 0.1.0 · cpu\n3", "llmviz 0.1.0 · cpu\n4"),
    ],
)
def test_different(a, b):
    assert Output(a) != Output(b)
    assert (Output(a) == Output(b)) is False


def test_in_nbval(tmp_path):
    cells = [
        nb.new_code_cell(
            "print(f'x {1 / 3:.3f}')",
            execution_count=count,
            outputs=[nb.new_output("stream", name="stdout", text=stored)],
        )
        for count, stored in enumerate(["x 0.334\n", "y 0.333\n", "x 0.343\n"], start=1)
    ]
    path = tmp_path / "three.ipynb"
    path.write_text(nb.writes(nb.new_notebook(cells=cells)))
    command = [sys.executable, "-m", "pytest", "-v", "-p", "tests.nbval_tolerance", "--nbval"]
    command += ["--nbval-current-env", f"--executed={tmp_path / 'ran'}"]
    command += ["-c", ROOT / "pyproject.toml", path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    outcomes = re.findall(r"Cell \d (PASSED|FAILED)", done.stdout)
    assert outcomes == ["PASSED", "FAILED", "FAILED"], done.stdout + done.stderr
    assert "Cell outputs differ" in done.stdout
    # What was run is kept, not what was stored.
    kept = nbformat.read(tmp_path / "ran" / "three.ipynb", as_version=4)
    assert [cell.outputs[0].text for cell in kept.cells] == ["x 0.333\n"] * 3
    assert [cell.execution_count for cell in kept.cells] == [1, 2, 3]

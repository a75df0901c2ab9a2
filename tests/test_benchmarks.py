"""Each script under benchmarks/ runs, briefly and on a tiny model, and prints what it measures.

`drag`, which needs a browser, is run by the browser's tests.
"""

import re
import runpy
import sys

import pytest
import torch

from tests import tiny
from tests.test_readme import ROOT

SCRIPTS = {
    "beam_search": (["1"], r"ratio \d+\.\d{3}"),
    "choices": (["1"], r"50 choices of \d+ to \d+ tokens .*: \d\.\d{3} of 50"),
    "gpu": (["--device", "cpu", "--quick"], r"\n    4  static  +[\d,.]+ .* yes"),
    "logit_lens": (["1"], r"lens of 1,000 tokens, memory beyond the model: \d+ MB"),
    "tracing": (["--steps", "3", "--rounds", "1"], r"sampled / generate_sampled +\d+\.\d\d"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.model("llama", max_position_embeddings=2048).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_runs(name, folder, monkeypatch, capsys):
    arguments, said = SCRIPTS[name]
    monkeypatch.setenv("LLMVIZ_MODEL", str(folder))
    monkeypatch.setattr("llmviz.models.default_model_folder", lambda: folder)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    threads = torch.get_num_threads()
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    assert re.search(said, capsys.readouterr().out)


def test_none_is_forgotten():
    there = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert there == SCRIPTS.keys() | {"drag"}

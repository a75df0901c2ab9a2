"""What an editor sees of the package: completion by jedi, and pyright's word on a page of uses."""

import importlib
import inspect
import json
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import jedi
import playwright
import pyright
import pytest

import llmviz as lv
from llmviz import explorers, widgets

ROOT = Path(__file__).parent.parent
ROOMS = {name for name in lv.__all__ if inspect.ismodule(getattr(lv, name))}
NAMES = sorted(set(lv.__all__) - ROOMS)
CALLED = [name for name in NAMES if inspect.isfunction(getattr(lv, name))]


def run_alone(program: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# The stub and the package.


@pytest.mark.parametrize("package", [lv, explorers, widgets], ids=lambda package: package.__name__)
def test_every_name_of_the_stub_resolves(package):
    assert package.__all__
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


def test_the_stub_lists_what_the_rooms_offer():
    """A name of a room's own `__all__` that is public there is found under it, by the same name."""
    for name in NAMES:
        found = getattr(lv, name)
        assert found.__name__ == name
        room = importlib.import_module(found.__module__)
        assert getattr(room, name) is found


def test_every_room_is_there_whatever_was_used_before():
    program = """
import llmviz as lv
for name in {rooms}:
    assert getattr(lv, name).__name__ == f"llmviz.{{name}}", name
import llmviz.decoding, llmviz.plots
"""
    for rooms in (sorted(ROOMS), sorted(ROOMS, reverse=True)):
        run_alone(program.format(rooms=rooms))


def test_no_module_hides_behind_a_function_of_its_name():
    """`import llmviz.decoding.x as x` gives the module, and `llmviz.decoding.x` the same thing."""
    for found in pkgutil.walk_packages(lv.__path__, "llmviz."):
        if found.name in ("llmviz.__main__", "llmviz.lab"):
            continue
        module = importlib.import_module(found.name)
        parent, _, name = found.name.rpartition(".")
        assert getattr(sys.modules[parent], name) is module


def test_importing_loads_nothing_heavy():
    heavy = {"torch", "transformers", "pandas", "matplotlib", "numpy", "ipywidgets", "anywidget"}
    assert run_alone(f"import sys, llmviz; print(sorted({heavy} & set(sys.modules)))") == "[]\n"


# jedi, which completes in Jupyter and many editors.


def script(code: str) -> jedi.Script:
    project = jedi.Project(ROOT, smart_sys_path=False, added_sys_path=[str(ROOT)])
    return jedi.Script(code, path=ROOT / "somewhere.py", project=project)


def test_jedi_completes_every_public_name():
    completed = {found.name for found in script("import llmviz as lv\nlv.").complete(2, 3)}
    assert set(lv.__all__) <= completed


@pytest.mark.parametrize("name", CALLED)
def test_jedi_shows_the_signature(name):
    code = f"import llmviz as lv\nlv.{name}("
    (shown,) = script(code).get_signatures(2, len(code.splitlines()[1]))
    wanted = [p.name for p in inspect.signature(getattr(lv, name)).parameters.values()]
    assert [p.name for p in shown.params] == wanted
    assert shown.docstring(raw=True).strip()


# pyright, which is Pylance's engine.

RIGHT = """
from typing import assert_type

import llmviz as lv
from llmviz.html import View
from llmviz.internals import Labelled
from matplotlib.axes import Axes
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

model, tokenizer = lv.load()
plain: PreTrainedModel = model
assert_type(tokenizer, PreTrainedTokenizerBase)
assert_type(lv.__version__, str)
assert_type(lv.setup_line(model), str)

run = lv.generate(model, tokenizer, "Hello", max_new_tokens=3, top_p=0.9, do_sample=True, seed=1)
assert_type(run, lv.Trace)
assert_type(run.frame, lv.Table)
assert_type(run.summary, lv.Table)
assert_type(run.beam_frame, lv.Table)
assert_type(run.text, str)
assert_type(run.texts, list[str])
assert_type(run.sequences, Tensor)
assert_type(run.sum_logprobs, list[float])
assert_type(lv.Trace.from_json(run.to_json()), lv.Trace)

ids = tokenizer("Hello", return_tensors="pt").input_ids
assert_type(lv.greedy_search(model, ids, max_new_tokens=3, repetition_penalty=1.2), lv.Trace)
lv.sample(model, ids, seed=1, temperature=0.7, bad_words_ids=[[1]])
lv.beam_search(model, ids, num_beams=2, no_repeat_ngram_size=2)
lv.contrastive_search(model, ids, penalty_alpha=0.6, top_k=4)
lv.dola(model, ids, dola_layers="high", suppress_tokens=[3])
lv.assisted_search(model, ids, prompt_lookup_num_tokens=3)
lv.trace_of(model.generate(ids, max_new_tokens=3), tokenizer, "Hello")
lv.generate(AutoModelForCausalLM.from_pretrained("gpt2"), tokenizer, ["Hello", "you"])

assert_type(lv.predict_next_tokens(model, tokenizer, "Hello"), lv.Table)
logits = model(ids).logits[0, -1]
assert_type(lv.logits_to_frame(logits, tokenizer), lv.Table)
assert_type(lv.token_labels(tokenizer, ids[0]), list[str])
assert_type(lv.token_table(tokenizer, "Hello"), lv.Table)
assert_type(lv.readable("\\n"), str)
assert_type(lv.processors.top_p(logits[None], 0.9), Tensor)
assert_type(lv.remove_invalid_values(ids, logits[None]), Tensor)

assert_type(lv.hidden_states(model, tokenizer, "Hello"), Labelled)
assert_type(lv.attentions(model, tokenizer, "Hello").labels, list[str])
lens = lv.logit_lens(model, tokenizer, "Hello", position=-1)
assert_type(lens, lv.Table)
assert_type(lv.kv_cache(model, tokenizer, "Hello"), lv.Table)
assert_type(lv.score_choices(model, tokenizer, "Is it?", [" Yes", " No"]), lv.Table)

assert_type(lv.plot_steps(run), Axes)
assert_type(lv.plot_temperature(logits, ["a", "b"]), Axes)
lv.show(lv.plot_surprisal({"a": [1.0, 2.0]}, ["a", "b"]), "alt text")
assert_type(lv.token_strip(run), View)
assert_type(lv.side_by_side({"greedy": run}), View)
assert_type(lv.lens_grid(lens), View)

response, history, *_ = lv.chat(model, tokenizer, "Hello", top_k=5)
for answer in lv.stream_chat(model, tokenizer, "Hello", repetition_penalty=1.1):
    print(answer[0])
lv.print_stream(lv.stream_chat(model, tokenizer, "Hello", history))

lv.SamplerBench(model, tokenizer, "Hello", temperature=0.7)
lv.ProcessorChain(model, tokenizer, "Hello", repetition_penalty=1.2)
lv.Stepper(model, tokenizer, "Hello", top_k=5)
lv.BeamExplorer(model, tokenizer, "Hello", num_beams=3, no_repeat_ngram_size=2)
lv.Comparison(model, tokenizer, "Hello", {"greedy": {}, "beams": {"num_beams": 4}})
lv.Inside(model, tokenizer, "Hello")
"""

# Each with the words that pyright's error must have.
WRONG = {
    "lv.generat(model, tokenizer, 'Hello')": '"generat" is not a known attribute',
    "lv.generate(model, tokenizer, 'Hello', max_tokens=3)": 'No parameter named "max_tokens"',
    "lv.generate(model, tokenizer, 'Hello', top_k='5')": 'parameter "top_k" of type "int"',
    "lv.generate(model, tokenizer)": 'missing for parameter "prompt"',
    "lv.load(devize='cpu', dtype=3)": "dtype",
    "lv.generate(model, tokenizer, 'Hello').txt": 'Cannot access attribute "txt"',
    "lv.greedy_search(model, ids, top_kk=3)": 'No parameter named "top_kk"',
    "lv.sample(model, ids, temperature='hot')": '"temperature"',
    "lv.beam_search(model, ids, num_beam=3)": 'No parameter named "num_beam"',
    "lv.contrastive_search(model, ids, alpha=1)": 'No parameter named "alpha"',
    "lv.dola(model, ids, layers='high')": 'No parameter named "layers"',
    "lv.assisted_search(model, ids, assistant=model)": 'No parameter named "assistant"',
    "lv.chat(model, tokenizer, 'Hello', temprature=1)": 'No parameter named "temprature"',
    "lv.stream_chat(model, tokenizer, 'Hello', top_q=1)": 'No parameter named "top_q"',
    "lv.logit_lens(model, tokenizer, 'Hello', topk=3)": 'No parameter named "topk"',
    "lv.score_choices(model, tokenizer, 'Hello', 3)": '"choices"',
    "lv.plot_steps('a run')": '"run"',
    "lv.plot_steps(run, axes=None)": 'No parameter named "axes"',
    "lv.predict_next_tokens(tokenizer, model, 'Hello')": '"model"',
    "lv.processors.topp": '"topp" is not a known attribute',
    "lv.processors.check(top_q=1)": 'No parameter named "top_q"',
    "lv.SamplerBench(model, tokenizer, 'Hello', temprature=1)": 'No parameter named "temprature"',
    "lv.ProcessorChain(model, tokenizer, 'Hello', topk=1)": 'No parameter named "topk"',
    "lv.BeamExplorer(model, tokenizer, 'Hello', beams=3)": 'No parameter named "beams"',
    "lv.Stepper(model, tokenizer, 'Hello', top_k='1')": '"top_k"',
}


def node() -> str:
    """pyright is a program for Node: there is one on the path, or that of Playwright."""
    own = Path(playwright.__file__).parent / "driver" / ("node.exe" if os.name == "nt" else "node")
    return shutil.which("node") or str(own)


@pytest.fixture(scope="module")
def verdict(tmp_path_factory):
    """pyright's errors, by the line of the page: the right uses, then the wrong ones."""
    folder = tmp_path_factory.mktemp("page")
    lines = [*RIGHT.splitlines(), *WRONG]
    (folder / "page.py").write_text("\n".join(lines))
    settings = {"extraPaths": [str(ROOT)], "reportPrivateImportUsage": False}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    program = Path(pyright.__file__).parent / "dist" / "index.js"
    command = [node(), program, "--outputjson", "--pythonpath", sys.executable, "page.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    errors = {}
    for found in json.loads(done.stdout)["generalDiagnostics"]:
        said = found["message"].replace("\xa0", " ")
        if found["severity"] == "error":
            errors.setdefault(lines[found["range"]["start"]["line"]], []).append(said)
    return errors


def test_right_uses_are_no_errors(verdict):
    assert not {line: said for line, said in verdict.items() if line not in WRONG}


@pytest.mark.parametrize("use", WRONG)
def test_a_wrong_use_is_an_error(verdict, use):
    assert any(WRONG[use] in message for message in verdict.get(use, [])), verdict.get(use)

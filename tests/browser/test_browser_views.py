"""Hostile prompts and tokens through every view and explorer, live and saved: nothing runs, nothing
is a link, and nothing is set as mathematics but the lesson's own."""

import IPython.display

import llmviz as lv
from tests import hostile as texts
from tests.browser.lab import EXPLORER

RUNS = """\
run = lv.generate(model, tokenizer, prompt, max_new_tokens=6)
drawn = lv.generate(model, tokenizer, prompt, max_new_tokens=6, do_sample=True, seed=1)
beams = lv.generate(model, tokenizer, prompt, max_new_tokens=4, num_beams=3)
weights, labels = lv.attentions(model, tokenizer, prompt)
lens = lv.logit_lens(model, tokenizer, prompt, top_k=2)"""
HTML = [
    "lv.token_strip(drawn)",
    "lv.side_by_side({labels[0]: run, run.tokens[0][0]: drawn})",
    "lv.attention_strip(weights[0, 0], labels)",
    "lv.lens_grid(lens)",
    "lens",
    "run.frame",
    "run.summary",
    "beams.beam_frame",
    "lv.token_table(tokenizer, prompt)",
    "lv.predict_next_tokens(model, tokenizer, prompt, num_steps=3)",
    "lv.score_choices(model, tokenizer, prompt, [' ' + t for t in run.tokens[0][:2]])",
]
FIGURES = [
    "lv.plot_steps(run)",
    "lv.plot_sampler(run)",
    "lv.plot_beam_tree(beams)",
    "lv.plot_tokens(labels)",
    "lv.plot_attention_overview(weights, labels)",
    "lv.plot_ranks({labels[0]: [3, 2, 1], run.tokens[0][0]: [1, 1, 1]})",
]
EXPLORERS = [
    "lv.SamplerBench(model, tokenizer, prompt, continuation=prompt)",
    "lv.ProcessorChain(model, tokenizer, prompt)",
    "lv.Stepper(model, tokenizer, prompt)",
    "lv.BeamExplorer(model, tokenizer, prompt, max_new_tokens=4)",
    "lv.Comparison(model, tokenizer, prompt, {labels[2]: {}, labels[3]: {'num_beams': 2}})",
    "lv.Inside(model, tokenizer, prompt)",
]
SHOWN = [*HTML, *(f"lv.show({f}, alt=run.text, title=run.text[:40])" for f in FIGURES)]
CELLS = [RUNS, *SHOWN, *EXPLORERS]
MATHEMATICS = "mjx-container, .MathJax, .katex"
FORMULA = "The square is $x^2$."


def test_everything_stays_text_live(hostile):
    hostile.show(*CELLS, markdown=FORMULA)
    check(hostile, live=True)


def test_everything_stays_text_saved(lab, monkeypatch):
    """Without a kernel, in a notebook that nobody has trusted."""
    figures = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, **_: figures.append(bundle))
    names = {"lv": lv, "model": texts.model(), "tokenizer": texts.tokenizer()}
    names["prompt"] = texts.PROMPT
    exec(RUNS, names)
    shown = [eval(source, names) for source in SHOWN + EXPLORERS]
    shown[len(HTML) : len(SHOWN)] = figures
    with lab.notebook(lab.saved(*shown, markdown=FORMULA), kernel=False) as notebook:
        check(notebook, live=False)


def check(notebook, *, live: bool) -> None:
    outputs = [o for cell in notebook.cells() for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert len([o for o in outputs if "data" in o]) == len(SHOWN) + len(EXPLORERS)
    # The lesson's own formula is set, so the typesetter is at work.
    notebook.page.locator(f".jp-MarkdownOutput :is({MATHEMATICS})").first.wait_for()
    seen = ""
    first = len(notebook.cells()) - len(EXPLORERS)
    for number, cell in enumerate(notebook.every_cell()):
        if live and number >= first:
            cell.locator(EXPLORER).first.wait_for()
        notebook.page.wait_for_timeout(150)
        output = cell.locator(".jp-OutputArea-output")
        runs = "script, svg:not(.llmviz svg), iframe, [onerror], [onload], a[href]"
        found = f":is({MATHEMATICS}, {runs})"
        assert output.locator(found).count() == 0, output.locator(found).first.inner_html()
        seen += "".join(output.all_inner_texts())
    # The hostile texts are there, and are texts.
    for text in (
        "onerror=window.__hacked",
        "$x^2$",
        r"\[x^2\]",
        r"\(\href{https://example.org}",
    ):
        assert text in seen
    assert "\x1b" not in seen and "\u202e" not in seen
    assert not notebook.hacked()
    notebook.screenshot(f"views-{'live' if live else 'saved'}")

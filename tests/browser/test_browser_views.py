"""Hostile tokens through every view that is no explorer: nothing runs, live or saved."""

import pytest

from tests.browser.lab import HOSTILE_SETUP

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
CELLS = [RUNS, *HTML, *(f"lv.show({f}, alt=run.text, title=run.text[:40])" for f in FIGURES)]


@pytest.mark.parametrize("kernel", [True, False], ids=["live", "saved"])
def test_nothing_runs(lab, kernel):
    if kernel:
        name = lab.write(HOSTILE_SETUP, *CELLS)
    else:
        name = lab.executed(HOSTILE_SETUP, *CELLS)
    with lab.notebook(name, kernel=kernel) as notebook:
        if kernel:
            notebook.run_all()
        outputs = [o for cell in notebook.cells() for o in cell.get("outputs", [])]
        assert not [o for o in outputs if o["output_type"] == "error"]
        assert len([o for o in outputs if "data" in o]) == len(HTML) + len(FIGURES)
        shown = notebook.page.locator(".jp-OutputArea-output")
        shown.last.scroll_into_view_if_needed()
        # The hostile texts are there, and are texts.
        assert "onerror=window.__hacked" in notebook.page.locator("body").inner_text()
        alive = ".jp-OutputArea-output script, .jp-OutputArea-output svg"
        assert notebook.page.locator(alive).count() == 0
        assert not notebook.hacked()
        notebook.screenshot(f"views-{'live' if kernel else 'saved'}")

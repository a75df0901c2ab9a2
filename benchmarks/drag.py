"""From the drag of a slider to the new picture, measured in the browser, on the default model.

A real JupyterLab and a real Chromium; each number is the time from a mouse event to the frame that
shows the new picture of all 49,152 scores. `python -m benchmarks.drag [--moves 60]`
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from tests.browser.lab import SETUP, serve

PROMPT = "I enjoy walking with my cute dog"
BARE = """\
import ipywidgets

slider = ipywidgets.FloatSlider(1.0, min=0.05, max=5, step=0.05, description="temperature")
first, view = ipywidgets.HTML(), ipywidgets.HTML("1.0")
slider.observe(lambda change: setattr(view, "value", str(change.new)), "value")
ipywidgets.VBox([slider, first, view]).add_class("llmviz-explorer")"""
EXPLORERS = {
    "a slider and a number, for comparison": BARE,
    "sampler bench, temperature and top-p": f"lv.SamplerBench(model, tokenizer, {PROMPT!r}, "
    "temperature=0.7, top_p=0.9)",
    "sampler bench, everything on": f"lv.SamplerBench(model, tokenizer, {PROMPT!r}, top_k=200, "
    "temperature=0.9, top_p=0.95, min_p=0.01, typical_p=0.95, repetition_penalty=1.2)",
    "processors in a row, everything on": f"lv.ProcessorChain(model, tokenizer, {PROMPT!r}, "
    "temperature=0.9, top_k=200, top_p=0.95, min_p=0.01, typical_p=0.95, repetition_penalty=1.2)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=60)
    moves = parser.parse_args().moves
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "notebooks"
        folder.mkdir()
        with serve(folder) as lab, lab.notebook(lab.write(SETUP, *EXPLORERS.values())) as notebook:
            notebook.run_all()
            for number, name in enumerate(EXPLORERS):
                times = notebook.explorer(number).milliseconds("temperature", moves)
                print(
                    f"{name:38} median {statistics.median(times):4.0f} ms, 95th percentile "
                    f"{statistics.quantiles(times, n=20)[-1]:4.0f} ms, of {len(times)} moves",
                    flush=True,
                )


if __name__ == "__main__":
    main()

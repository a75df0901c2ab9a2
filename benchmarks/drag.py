"""From the drag of a slider to the painted picture, measured in Chromium.

Each number is the time from a mouse event, by its own time stamp, to the frame that shows the new
picture: with every processor on, over 49,152 scores of the default model and over 262,144 of a
random one, on an exported page and in JupyterLab.

    python -m benchmarks.drag [--moves 60] [--no-lab]
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import llmviz as lv
from tests import tiny
from tests.browser.lab import SETUP, serve

PROMPT = "I enjoy walking with my cute dog and I enjoy"
ON = {
    "temperature": 0.9, "top_k": 200, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.95,
    "repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.5,
    "epsilon_cutoff": 0.0003, "eta_cutoff": 0.0003, "no_repeat_ngram_size": 3, "top_h": 0.99,
    "min_new_tokens": 3,
}  # fmt: skip
EXPLORERS = ("SamplerBench", "ProcessorChain")
# After an input: ask for the next frame, and for a message, which waits for its paint.
STOPWATCH = """() => {
  let moved = 0;
  window.painted = [];
  window.addEventListener("pointermove", (event) => { moved = event.timeStamp }, true);
  window.addEventListener("input", () => {
    const since = moved;
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => window.painted.push(performance.now() - since);
      channel.port2.postMessage(0);
    });
  }, true);
}"""


def milliseconds(page, root, moves: int) -> list[float]:
    """Move the temperature's handle with the mouse, a step of the slider or more at a time."""
    page.evaluate(STOPWATCH)
    box = root.get_by_role("slider", name="temperature", exact=True).bounding_box()
    x, y = box["x"] + 0.2 * box["width"], box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.wait_for_timeout(300)
    page.evaluate("() => { window.painted.length = 0 }")
    for move in range(1, moves + 1):
        page.mouse.move(x + 3 * (move if move <= moves / 2 else moves - move), y)
        page.wait_for_timeout(40)
    page.mouse.up()
    return page.evaluate("() => window.painted")


def tell(name: str, times: list[float]) -> None:
    print(
        f"{name:44} median {statistics.median(times):5.1f} ms, 95th percentile "
        f"{statistics.quantiles(times, n=20)[-1]:5.1f} ms, of {len(times)} moves",
        flush=True,
    )


def pages(lab, folder: Path, moves: int) -> None:
    wide = tiny.model("llama", vocab_size=262_144), tiny.tokenizer()
    for model, tokenizer, settings in ((*lv.load(device="cpu"), ON), (*wide, ON)):
        for name in EXPLORERS:
            explorer = getattr(lv, name)(model, tokenizer, PROMPT, continuation=" it", **settings)
            page = lab.page((1000, 1000))
            page.goto(explorer.to_html(folder / "page.html").as_uri())
            root = page.locator(".llmviz")
            root.wait_for()
            size = explorer.position.logits.shape[1]
            tell(f"{name}, page, {size:,} scores", milliseconds(page, root, moves))
            page.close()


def notebooks(lab, moves: int) -> None:
    with lab.notebook(lab.write(SETUP)) as notebook:
        notebook.run_all()
        for name in EXPLORERS:
            explorer = notebook.show(f"lv.{name}(model, tokenizer, {PROMPT!r}, **{ON})")
            times = milliseconds(notebook.page, explorer.root, moves)
            tell(f"{name}, JupyterLab, 49,152 scores", times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--moves", type=int, default=60)
    parser.add_argument("--no-lab", action="store_true", help="only the exported pages")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "notebooks"
        folder.mkdir()
        with serve(folder) as lab:
            pages(lab, Path(temporary), arguments.moves)
            if not arguments.no_lab:
                notebooks(lab, arguments.moves)


if __name__ == "__main__":
    main()

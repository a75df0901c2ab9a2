"""A real JupyterLab on this machine, and a real Chromium that looks at it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from playwright.sync_api import Error, Locator, Page, sync_playwright

from llmviz.lab import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = Path(__file__).parent / "screenshots"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
SETUP = "import llmviz as lv\n\nmodel, tokenizer = lv.load(device='cpu')"
HOSTILE_SETUP = (
    "import llmviz as lv\nfrom tests import hostile\n\n"
    "model, tokenizer, prompt = hostile.model(), hostile.tokenizer(), hostile.PROMPT"
)
TINY_SETUP = (
    "import llmviz as lv\nfrom tests import tiny\n\n"
    "model, tokenizer = tiny.model('llama'), tiny.tokenizer()"
)


class Lab:
    """A server over a copy of the lessons, with a browser."""

    def __init__(self, url: str, folder: Path, context):
        self.url, self.folder, self._context = url, folder, context
        self._made, self._left = 0, []

    def write(self, *sources: str, name: str | None = None, markdown: str = "") -> str:
        """A scratch notebook with a code cell for each of `sources`, after one of `markdown`; its
        name."""
        self._made += 1
        name = name or f"scratch-{self._made}.ipynb"
        cells = [nbformat.v4.new_markdown_cell(markdown)] if markdown else []
        cells += [nbformat.v4.new_code_cell(source) for source in sources]
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata["kernelspec"] = {
            "display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3",
        }  # fmt: skip
        nbformat.write(notebook, self.folder / name)
        return name

    def executed(self, *sources: str, markdown: str = "") -> str:
        """The same, run and saved as the lessons are; nobody has trusted it."""
        name = self.write(*sources, markdown=markdown)
        command = [sys.executable, "-m", "tests.save_notebooks", str(self.folder / name)]
        done = subprocess.run(
            command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return name

    @contextmanager
    def notebook(self, name: str, *, kernel: bool = True, size=(1280, 1600)):
        """The notebook `name` in a tab of its own, with a fresh kernel or none."""
        page = self._context.new_page()
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.goto(f"{self.url}/lab/tree/{name}?reset")
        page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
            "?.status === 'idle'",
            timeout=120_000,
        )
        session = "window.jupyterapp.shell.currentWidget.sessionContext"
        if not kernel:
            page.evaluate(f"() => {session}.shutdown()")
        try:
            yield Notebook(page)
        except Exception:
            self._left.append(_seen(page))
            raise
        finally:
            if kernel:
                page.evaluate(f"() => {session}.shutdown()")
            page.close()

    def look(self) -> list[str]:
        """What the notebooks show that are open, or that a failed test has just left."""
        left, self._left = self._left, []
        return left + [_seen(page) for page in self._context.pages if "/lab/tree/" in page.url]


def _seen(page: Page) -> str:
    """In words, for who reads the log of a failed test; and the path of a screenshot."""
    try:
        name = page.url.rpartition("/")[2].partition("?")[0]
        fields = "all => all.map(field => field.value).join(' | ')"
        return "\n".join(
            [
                str(Notebook(page).screenshot(f"left-{name}")),
                page.locator(".jp-Notebook").first.inner_text(),
                page.locator(".llmviz-explorer :is(input, textarea)").evaluate_all(fields),
            ]
        )
    except Error as error:
        return f"It could not be looked at: {error}"


class Notebook:
    """An open notebook: what a reader does with it, and what he sees."""

    def __init__(self, page: Page):
        self.page = page

    def run_all(self, timeout: float = 300) -> None:
        self.page.set_default_timeout(timeout * 1000)
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        self.page.set_default_timeout(30_000)

    def cells(self) -> list[dict]:
        """The cells as they would be saved."""
        return self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.content.model.toJSON().cells"
        )

    def text(self, selector: str = ".llmviz-explorer .widget-html-content >> nth=-1") -> str:
        return self.page.locator(selector).inner_text()

    def explorer(self, number: int = 0) -> Explored:
        found = self.page.locator(".llmviz-explorer").nth(number)
        found.wait_for()
        found.scroll_into_view_if_needed()
        return Explored(self.page, found)

    def hacked(self) -> bool:
        return self.page.evaluate("() => window.__hacked !== undefined")

    def every_cell(self) -> Iterator[Locator]:
        """Each cell, scrolled to, since Lab renders an output when it comes into view."""
        widget = "window.jupyterapp.shell.currentWidget.content"
        for number in range(self.page.evaluate(f"() => {widget}.widgets.length")):
            self.page.evaluate(f"number => {widget}.scrollToItem(number)", number)
            cell = self.page.locator(f'.jp-Cell[data-windowed-list-index="{number}"]')
            cell.scroll_into_view_if_needed()
            yield cell

    def theme(self, name: str) -> None:
        """Such as "JupyterLab Dark"."""
        self.page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})",
            name,
        )
        self.page.wait_for_function(
            "name => document.body.dataset.jpThemeName === name", arg=name, timeout=30_000
        )
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")

    def screenshot(self, name: str, selector: str | None = None) -> Path:
        """For a person to look at: of the page, or of one element."""
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        shown = self.page.locator(selector).first if selector else self.page
        shown.screenshot(path=path)
        return path


class Explored:
    """One explorer in the browser. Its controls are found by their descriptions."""

    def __init__(self, page: Page, root):
        self.page, self.root = page, root

    @property
    def picture(self):
        """The view: the card that is no message."""
        return self.root.locator(":scope > .widget-html").nth(1)

    @property
    def message(self):
        return self.root.locator(":scope > .widget-html").nth(0)

    def control(self, description: str):
        label = self.page.get_by_text(description, exact=True)
        return self.root.locator(".widget-inline-hbox").filter(has=label).first

    def handle(self, description: str):
        return self.control(description).locator(".noUi-handle")

    def value(self, description: str) -> str:
        """What a slider says."""
        return self.control(description).locator(".widget-readout").inner_text()

    def button(self, description: str):
        return self.root.get_by_role("button", name=description, exact=True)

    def drag(self, description: str, pixels: float, steps: int = 8) -> None:
        """Take a slider's handle with the mouse, and move it."""
        box = self.handle(description).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + pixels, y, steps=steps)
        self.page.mouse.up()

    def type(self, description: str, text: str) -> None:
        box = self.control(description).locator("input, textarea").first
        box.fill(text)
        box.press("Enter")

    def milliseconds(self, description: str, moves: int = 40) -> list[float]:
        """From a mouse event of a drag to the painted frame of the new picture, move by move.

        Every move is longer than a step of the slider, and waits for the frame before.
        """
        view = self.picture.locator(".widget-html-content").element_handle()
        self.page.evaluate(_STOPWATCH, view)
        box = self.control(description).locator(".noUi-base").bounding_box()
        x, y = box["x"] + 0.2 * box["width"], box["y"] + box["height"] / 2
        handle = self.handle(description).bounding_box()
        self.page.mouse.move(handle["x"] + handle["width"] / 2, y)
        self.page.mouse.down()
        self.page.mouse.move(x, y)
        self.page.wait_for_timeout(1000)
        self.page.evaluate("() => { window.__painted = [] }")
        for move in range(1, moves + 1):
            # There and back, so that a slider may be short.
            self.page.mouse.move(x + 3 * (move if move <= moves / 2 else moves - move), y)
            self.page.evaluate("n => window.__until(n)", move)
            self.page.wait_for_timeout(50)
        self.page.mouse.up()
        return self.page.evaluate("() => window.__painted")

    def wait_for(self, text: str, timeout: float = 30) -> None:
        """Until the picture shows `text`."""
        self.picture.get_by_text(text).first.wait_for(timeout=timeout * 1000)

    def wait_for_silence(self) -> None:
        """Until the message line is empty."""
        self.message.locator("[role]").wait_for(state="detached")

    def screenshot(self, name: str) -> Path:
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.root.screenshot(path=path)
        return path


# After a change of the view: ask for the next frame, and for a message, which waits for its paint.
_STOPWATCH = """view => {
  let moved = 0, wanted = 0, reached = null;
  window.__painted = [];
  // Polling would ask for frames, and so be measured itself.
  window.__until = count => new Promise((resolve, reject) => {
    if (window.__painted.length >= count) resolve();
    [wanted, reached] = [count, resolve];
    setTimeout(() => reject(new Error("no new picture after 10 seconds")), 10000);
  });
  window.addEventListener("pointermove", event => { moved = event.timeStamp }, true);
  new MutationObserver(() => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      if (window.__painted.push(performance.now() - moved) === wanted) reached();
    };
    channel.port2.postMessage(0);
  })).observe(view, { childList: true, subtree: true, characterData: true });
}"""


@contextmanager
def serve(folder: Path):
    """A Lab over `folder`, with settings, workspaces and a browser profile of its own."""
    home = folder.parent / f"{folder.name}-home"
    for plugin, setting in SETTINGS.items():
        file = home / "settings" / f"{plugin.replace(':', '/')}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(setting))
    environment = _environment() | {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", home / "server.log"
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
        f"--port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True",
        "--ServerApp.kernel_websocket_connection_class=llmviz.lab.PromptConnection",
    ]  # fmt: skip
    with open(log, "w") as output:
        server = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_for(url, server, log)
        with sync_playwright() as playwright:
            context = playwright.chromium.launch_persistent_context(
                str(home / "browser"), executable_path=CHROMIUM, headless=True, args=FLAGS
            )
            context.set_default_timeout(30_000)
            yield Lab(url, folder, context)
            context.close()
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    quiet = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return {**os.environ, "PYTHONPATH": path, **quiet}


def _wait_for(url: str, server: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/api", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")

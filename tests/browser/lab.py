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
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from IPython.core.formatters import DisplayFormatter
from playwright.sync_api import Error, Locator, Page, sync_playwright

from llmviz.lab import SETTINGS
from tests.save_notebooks import normalised, save

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

# Where an explorer is drawn: one that lives in the browser, or one of ipywidgets.
EXPLORER = ".llmviz, .llmviz-explorer"


class Lab:
    """A server over an empty folder, with a browser.

    Its pages are kept: a notebook is opened in one that is free, and closed again, since loading
    JupyterLab takes longer than most tests. Kernels are dear too, at some five seconds each, so
    an explorer's tests share those of the fixtures `real`, `small` and `hostile` (see conftest.py),
    and a saved notebook comes from `saved`, which needs none.
    """

    def __init__(self, url: str, folder: Path, context):
        self.url, self.folder, self._context = url, folder, context
        self._made, self._left = 0, []
        self._free: list[Page] = []
        self._open: dict[Page, str] = {}

    def add(self, notebook: Path) -> str:
        """A copy of `notebook`; its name."""
        self._made += 1
        return shutil.copy(notebook, self.folder / f"{self._made}-{notebook.name}").name

    def write(self, *sources: str, markdown: str = "") -> str:
        """A scratch notebook with a code cell for each of `sources`, after one of `markdown`; its
        name."""
        return self._write([nbformat.v4.new_code_cell(source) for source in sources], markdown)

    def saved(self, *shown, markdown: str = "") -> str:
        """The name of a scratch notebook that holds `shown` as outputs, saved as lessons are.

        shown: explorers and other objects, made in the test's own process on a tiny model, or
            ready MIME bundles (dicts). Nobody has trusted the notebook, and it needs no kernel.
        """
        cells = []
        for count, thing in enumerate(shown, 1):
            data = thing if isinstance(thing, dict) else _FORMATTER.format(thing)[0]
            data = {
                kind: b64encode(value).decode() if isinstance(value, bytes) else value
                for kind, value in data.items()
            }
            output = nbformat.v4.new_output("execute_result", data, execution_count=count)
            cells.append(
                nbformat.v4.new_code_cell("shown", outputs=[output], execution_count=count)
            )
        return self._write(cells, markdown)

    def _write(self, cells: list, markdown: str) -> str:
        self._made += 1
        name = f"scratch-{self._made}.ipynb"
        text = [nbformat.v4.new_markdown_cell(markdown)] if markdown else []
        notebook = nbformat.v4.new_notebook(cells=[*text, *cells])
        save(self.folder / name, normalised(notebook))
        return name

    @contextmanager
    def notebook(self, name: str, *, kernel: bool = True, size=(1280, 1600)):
        """The notebook `name` on a page of its own, with a fresh kernel or none."""
        page = self._free.pop() if self._free else self._new_page()
        page.bring_to_front()
        page.set_viewport_size({"width": size[0], "height": size[1]})
        self._open[page] = name
        notebook = Notebook(page)
        try:
            notebook.open(name, kernel=kernel)
            yield notebook
            notebook.close()
            self._free.append(page)
        except Exception:
            self._left.append(_seen(page, name))
            page.evaluate(f"() => {_PANEL}?.context?.sessionContext?.shutdown()")
            page.close()
            raise
        finally:
            del self._open[page]

    def _new_page(self) -> Page:
        page = self._context.new_page()
        page.goto(f"{self.url}/lab?reset")
        page.wait_for_function("() => window.jupyterapp?.restored", timeout=120_000)
        page.evaluate("() => window.jupyterapp.restored.then(() => true)")
        return page

    def page(self, size=(960, 900)) -> Page:
        """An empty tab, for a page without a kernel."""
        page = self._context.new_page()
        page.set_viewport_size({"width": size[0], "height": size[1]})
        return page

    def look(self) -> list[str]:
        """What the notebooks show that are open, or that a failed test has just left."""
        left, self._left = self._left, []
        return left + [_seen(page, name) for page, name in self._open.items()]


def _seen(page: Page, name: str) -> str:
    """In words, for whoever reads the log of a failed test; and the path of a screenshot."""
    try:
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


_PANEL = "window.jupyterapp.shell.currentWidget"
_FORMATTER = DisplayFormatter()
_OPEN = """async ([path, kernel]) => {
  const { commands, shell } = window.jupyterapp;
  delete window.__hacked;
  const panel = await commands.execute("docmanager:open", { path, factory: "Notebook" });
  const session = panel.context.sessionContext;
  // The file has not come yet, and the kernel is started after it.
  if (!kernel) session.kernelPreference = { ...session.kernelPreference, shouldStart: false };
  await panel.context.ready;
  await panel.revealed;
  shell.activateById(panel.id);
}"""
_SHOW = """async ([sources, markdown]) => {
  const content = window.jupyterapp.shell.currentWidget.content;
  const cells = content.model.sharedModel;
  cells.deleteCellRange(1, cells.cells.length);
  const text = markdown ? [{ cell_type: "markdown", source: markdown, metadata: {} }] : [];
  const code = sources.map(source => ({ cell_type: "code", source, metadata: {} }));
  cells.insertCells(1, [...text, ...code]);
  content.deselectAll();
  content.activeCellIndex = 1;
  await window.jupyterapp.commands.execute("notebook:run-all-below");
}"""


class Notebook:
    """An open notebook: what a reader does with it and sees in it."""

    def __init__(self, page: Page):
        self.page = page

    def open(self, name: str, *, kernel: bool) -> None:
        if self.page.evaluate("() => document.body.dataset.jpThemeName") != "JupyterLab Light":
            self.theme("JupyterLab Light")
        self.page.evaluate(_OPEN, [name, kernel])
        path = f"() => {_PANEL}?.context?.path === {json.dumps(name)}"
        idle = f" && {_PANEL}.sessionContext?.session?.kernel?.status === 'idle'"
        self.page.wait_for_function(path + idle * kernel, timeout=120_000)

    def close(self) -> None:
        """Close it unsaved, and end its kernel."""
        panel = self.page.evaluate_handle(f"() => {_PANEL}")
        panel.evaluate("panel => panel.context.sessionContext.shutdown()")
        panel.evaluate("panel => panel.dispose()")

    def show(self, *sources: str, markdown: str = "", timeout: float = 300) -> Explored:
        """Put cells of `sources` behind the first one, in place of what stood there, and run them;
        the explorer that the last one shows. The kernel stays, and what the first cell has set.

        For the notebooks of the fixtures `real`, `small` and `hostile`, which set `model` and
        `tokenizer` (and `prompt`, in the last).
        """
        self._replace(sources, markdown, timeout)
        return self.explorer()

    def drawn(self, *sources: str, timeout: float = 300) -> Locator:
        """The same for an explorer that the browser draws: its root."""
        self._replace(sources, "", timeout)
        root = self.page.locator(".jp-OutputArea-output .llmviz").last
        root.wait_for()
        root.scroll_into_view_if_needed()
        return root

    def _replace(self, sources: tuple[str, ...], markdown: str, timeout: float) -> None:
        self.page.bring_to_front()
        self.page.set_default_timeout(timeout * 1000)
        self.page.evaluate(_SHOW, [list(sources), markdown])
        self.page.set_default_timeout(30_000)

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
        for number in range(len(self.cells())):
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

"""Explorers on pages of their own, as `to_html` writes them: no server, no kernel."""

from __future__ import annotations

from contextlib import contextmanager

# What moves an input as a reader does, and waits for nothing: the page draws at once.
MOVE = """(root, name, value, done = true) => {
  const label = [...root.querySelectorAll("label")].find(l => l.textContent === name);
  const input = root.querySelector(`#${label.htmlFor}`);
  input.value = value;
  if (input.type === "range") input.dispatchEvent(new Event("input"));
  if (done) input.dispatchEvent(new Event("change"));
}"""


@contextmanager
def opened(lab, path, explorer=None, *, size=(960, 900), dark=False):
    """A tab that shows the explorer, written to `path`; it fails on any error or refusal."""
    if explorer is not None:
        explorer.to_html(path)
    page, told = lab.page(size), []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: told.append(request.url))
    page.emulate_media(color_scheme="dark" if dark else "light")
    try:
        page.goto(path.as_uri())
        page.locator(".llmviz").wait_for()
        yield page
        told = [text for text in told if "willReadFrequently" not in text]  # of a test's own look
        assert told == [path.as_uri()], told
    finally:
        page.close()


def move(page, name, value) -> None:
    page.evaluate(f"([name, value]) => ({MOVE})(document, name, value)", [name, value])


def unnamed(page) -> list[str]:
    """The inputs that a screen reader has no name for."""
    return page.evaluate(
        """() => [...document.querySelectorAll("input, select, button, canvas, svg, [tabindex]")]
          .filter(e => !e.closest("[aria-hidden]") && !e.labels?.length && !e.ariaLabel
                       && !(e.tagName === "BUTTON" && e.textContent.trim()))
          .map(e => e.outerHTML)"""
    )


def overflow(page) -> int:
    """By how many pixels the page is wider than the window."""
    return page.evaluate("() => document.documentElement.scrollWidth - innerWidth")


# From an input event to the painted frame, without the wait for the frame's turn.
_TIMES = """async ([name, moves]) => {
  const move = MOVE, times = [];
  const label = [...document.querySelectorAll("label")].find(l => l.textContent === name);
  const range = document.querySelector(`#${label.htmlFor}`), [low, high] = [+range.min, +range.max];
  for (let i = 0; i < moves; i++) {
    await new Promise(requestAnimationFrame);
    const before = performance.now();
    move(document, name, low + (high - low) * (0.5 + 0.5 * Math.sin(i)), false);
    await new Promise(done => {
      const channel = new MessageChannel();
      channel.port1.onmessage = done;
      requestAnimationFrame(() => channel.port2.postMessage(0));
    });
    times.push(performance.now() - before);
  }
  return times.sort((a, b) => a - b);
}""".replace("MOVE", MOVE)


def milliseconds(page, name, moves=40) -> list[float]:
    """Of so many moves of a slider, in order, from the event to the painted picture."""
    return page.evaluate(_TIMES, [name, moves])

"""What all explorers share: controls, one HTML view, a message line, and work in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import ipywidgets
import torch
from torch import LongTensor, Tensor

from ..decoding.prefix import Prefix
from ..html import VERBATIM, escaped
from ..models import check_length, check_model
from ..tokens import encode

# Colours are Okabe and Ito's, as in `plots`, and plain: a sanitiser removes anything cleverer.
BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
INK, MUTED, FAINT = "#222222", "#6b7280", "#d1d5db"
# A card of its own, white in every theme.
_CARD = (
    f"background:#ffffff;color:{INK};font-family:sans-serif;font-size:13px;line-height:1.45;"
    "padding:8px 12px;max-width:900px;box-sizing:border-box;overflow-x:auto"
)
_PATIENCE = 0.3  # seconds that work may take before it shows itself


class Explorer(ipywidgets.VBox):
    """Controls above one HTML view of a state, and a picture of it in the saved notebook.

    A subclass makes its controls and its state, then calls `super().__init__(*controls)`, and has
        picture() → str    the state as HTML, self-contained (see `card`), all text escaped
        __repr__() → str   the state as text, the same on every machine
        figure(ax=None)    the state with matplotlib
    A control is connected by `control.observe(self.reacts(function), "value")`, or a button by
    `button.on_click(self.reacts(function))`: `function()` changes the state, then the view follows.
    What takes longer than a processor goes through `work`.
    """

    _thread: threading.Thread | None = None  # the work under way

    def __init__(self, *controls: ipywidgets.Widget, below: tuple[ipywidgets.Widget, ...] = ()):
        self.view, self.message = ipywidgets.HTML(), ipywidgets.HTML()
        self._lock, self._stopped = threading.RLock(), threading.Event()
        self._progress = ipywidgets.FloatProgress(max=1.0, layout={"width": "240px"})
        self._stop = ipywidgets.Button(
            description="Stop", tooltip="Stop, and leave everything as it was"
        )
        self._stop.on_click(lambda _: self.stop())
        self._busy = ipywidgets.HBox([self._progress, self._stop], layout={"display": "none"})
        self._disabled: list[ipywidgets.Widget] = []
        self._controls = (*controls, *below)
        super().__init__([*controls, self._busy, self.message, self.view, *below])
        self.add_class("llmviz-explorer")
        self.redraw()

    def picture(self) -> str:
        raise NotImplementedError

    def still(self) -> str:
        """The HTML that stays in a saved notebook: the picture, and what else a reader needs."""
        return self.picture()

    def redraw(self) -> None:
        self.view.value = self.picture()

    def say(self, text: str, *, alert: bool = False) -> None:
        """Show `text` in the message line; an alert is read out at once by a screen reader."""
        style = f"{_CARD};border-left:4px solid {RED if alert else BLUE}"
        role, word = ("alert", "<b>Not possible:</b> ") if alert else ("status", "")
        head = f'<div class="{VERBATIM}" role="{role}" style="{style}">{word}'
        line = f"{head}{escaped(text)}</div>" if text else ""
        if self.message.value != line:
            self.message.value = line

    def reacts(self, function: Callable[[], object]) -> Callable:
        """`function` as a callback: afterwards the view is drawn again.

        A ValueError or TypeError stands in the message line, and the view stays as it was.
        """

        def callback(_=None):
            with self._lock:
                try:
                    function()
                    if not self.working:
                        self.say("")
                    self.redraw()
                except (ValueError, TypeError) as error:
                    self.say(str(error), alert=True)

        return callback

    @property
    def working(self) -> bool:
        return self._thread is not None

    def work(
        self,
        doing: str,
        steps: Generator[tuple[int, int], None, object],
        then: Callable[[object], object],
        by: ipywidgets.Widget | None = None,
    ) -> None:
        """Run `steps` in a thread, with progress and a Stop button; what it returns goes to `then`.

        doing: in words, such as "Generating".
        steps: a generator that yields (done, total) between two steps, and changes no state of the
            explorer. It may raise ValueError or TypeError, which the message line shows.
        then: takes over the result, at once and whole; the view is drawn afterwards. It is not
            called when the work was stopped, or replaced by other work.
        by: the control that began it, which stays enabled so that it keeps the keyboard's focus.
        """
        self.stop()
        stopped = self._stopped = threading.Event()

        def show() -> None:
            with self._lock:
                if not stopped.is_set():
                    self._disable(by)
                    self._busy.layout.display = ""
                    self.say(f"{doing} …")

        def run() -> None:
            words, alert = "", False
            try:
                result = self._run(doing, steps, stopped)
                with self._lock:
                    if not stopped.is_set():
                        then(result)
                        self.redraw()
            except (ValueError, TypeError) as error:
                words, alert = str(error), True
            finally:
                timer.cancel()
                with self._lock:
                    if not stopped.is_set():
                        self._end(stopped)
                        self.say(words, alert=alert)

        timer = threading.Timer(_PATIENCE, show)
        timer.daemon = True
        self._progress.value = 0.0
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        timer.start()

    def _run(self, doing: str, steps: Generator, stopped: threading.Event) -> object:
        try:
            while not stopped.is_set():
                done, total = next(steps)
                with self._lock:
                    if not stopped.is_set():
                        self._progress.value = done / total
                        if self._busy.layout.display != "none":
                            self.say(f"{doing}: {done} of {total}")
        except StopIteration as end:
            return end.value
        finally:
            steps.close()

    def stop(self) -> None:
        """End the work under way, if any, and drop what it has made."""
        with self._lock:
            if self.working:
                self._end(self._stopped)
                self.say("Stopped; everything is as it was.")

    def wait(self, timeout: float | None = None) -> None:
        """Until the work under way is done, `timeout` seconds at most."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def close(self) -> None:
        if self.working:
            self.stop()
        super().close()

    def _disable(self, by: ipywidgets.Widget | None) -> None:
        waiting = list(self._controls)
        while waiting:
            widget = waiting.pop()
            waiting += getattr(widget, "children", ())
            if widget is not by and getattr(widget, "disabled", None) is False:
                widget.disabled = True
                self._disabled.append(widget)

    def _end(self, stopped: threading.Event) -> None:
        stopped.set()
        self._thread = None
        self._busy.layout.display = "none"
        while self._disabled:
            self._disabled.pop().disabled = False

    def _repr_mimebundle_(self, **kwargs):
        """What ipywidgets shows live, and for a notebook without its kernel the present picture."""
        with self._lock:
            self.redraw()  # code may have changed the state since
            bundle = super()._repr_mimebundle_(**kwargs) or {}
            return {**bundle, "text/html": self.still(), "text/plain": repr(self)}


def result_of(steps: Generator):
    """What a generator such as `work` takes returns, at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread. What a drag computes is small, and the other threads would wait for
    the next of it in a loop, on the very cores that the browser wants to draw with."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def read(model, tokenizer, text: str, name: str = "prompt") -> tuple[LongTensor, Tensor]:
    """One pass: the tokens of `text`, shape (1, tokens), and the next one's logits, shape
    (1, vocabulary), float32; both on the CPU.

    Raises TypeError or ValueError that names `name` where it is no text, empty or too long.
    """
    check_model(model)
    input_ids = encode(tokenizer, text, name=name)[0]
    check_length(model, input_ids.shape[1], 1)
    return input_ids, Prefix(model, input_ids).next_logits().cpu()


# HTML: pure functions from text that is HTML already (`escaped` makes it of any text) to HTML


def card(*parts: str) -> str:
    """A white card, readable in every theme, whose text is never read as mathematics."""
    return f'<div class="{VERBATIM}" style="{_CARD}">{"".join(parts)}</div>'


def table(head: list[str], rows: list[list[str]], sides: str) -> str:
    """A table; `sides` has a letter a column: l or r, the side on which its cells are aligned."""
    side = [{"l": "left", "r": "right"}[letter] for letter in sides]

    def line(tag: str, cells: list[str], more: str) -> str:
        style = "padding:1px 8px;border:none;white-space:nowrap;vertical-align:middle"
        return '<tr style="background:#ffffff">' + "".join(
            f'<{tag} style="{style};text-align:{s};{more}">{cell}</{tag}>'
            for s, cell in zip(side, cells, strict=True)
        ) + "</tr>"  # fmt: skip

    lines = [line("th", head, f"color:{MUTED};font-weight:normal;font-size:12px")]
    lines += [line("td", row, f"color:{INK};font-size:13px") for row in rows]
    return f'<table style="border-collapse:collapse;margin:4px 0">{"".join(lines)}</table>'


def bar(share: float, colour: str, width: int = 240, height: int = 8) -> str:
    """A bar of `share` (0 to 1) of `width` pixels, in steps of 2, so that a last digit that differs
    between machines changes no picture."""
    pixels = 2 * round(min(max(share, 0.0), 1.0) * width / 2)
    return (
        f'<div style="width:{pixels}px;height:{height}px;background:{colour};margin:1px 0"></div>'
    )


def token(label: str) -> str:
    """A token's label in type of its own, escaped."""
    return f'<span style="font-family:monospace;white-space:pre">{escaped(label)}</span>'


def percent(probability: float) -> str:
    """Such as 12.3%; what is smaller than is printed says so."""
    return "<0.1%" if 0 < probability < 0.001 else f"{probability:.1%}"

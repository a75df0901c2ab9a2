"""What all explorers share: controls, one HTML view, a message line, and work in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import ipywidgets
from torch import Tensor

from .. import arguments
from ..colours import BLUE, INK, MUTED, RED
from ..decoding.prefix import Prefix
from ..html import VERBATIM, escaped
from ..models import check_length, check_model, vocab_size
from ..tokens import clipped, encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# A card of its own, white in every theme.
_CARD = (
    f"background:#ffffff;color:{INK};font-family:sans-serif;font-size:13px;line-height:1.45;"
    "padding:8px 12px;max-width:900px;box-sizing:border-box;overflow-x:auto"
)
_PATIENCE = 0.3  # seconds that work may take before it shows itself
_LONGEST = 600  # characters of an error that are shown


class Explorer(ipywidgets.VBox):
    """Controls above one HTML view of a state, and a picture of it in the saved notebook.

    A subclass makes its controls, puts its state into `_state`, then calls
    `super().__init__(*controls)`, and has
        picture() → str    the state as HTML, self-contained (see `card`), all text escaped
        as_text() → str    the state as text, the same on every machine
        settle(), texts()  put the controls where the state is, after something has failed
        figure(ax=None)    the state with matplotlib
    All that changes stands in `_state`, which is replaced as a whole and never changed, so that
    what has failed halfway is undone.
    A control is connected by `control.observe(self.reacts(function), "value")`, or a button by
    `button.on_click(self.reacts(function))`: `function()` changes the state, then the view follows.
    What runs the model goes through `work`.
    """

    _thread: threading.Thread | None = None  # the work under way, …
    _timer: threading.Timer | None = None  # … and what shows it after a while
    _state = None
    _quiet = False  # whether it is the explorer itself that moves its controls
    _closed = False

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

    @property
    def state(self):
        """What is shown. Raises ValueError once the explorer is closed."""
        if self._closed:
            raise ValueError(f"this {type(self).__name__} is closed: make a new one")
        return self._state

    def picture(self) -> str:
        raise NotImplementedError

    def as_text(self) -> str:
        raise NotImplementedError

    def settle(self) -> None:
        """Put the controls where the state is, but for the `texts`. Their callbacks do not hear
        it."""

    def texts(self) -> list[tuple[ipywidgets.Text, str]]:
        """The boxes of text, each with what the state has of it.

        A text that was refused stays, to be mended, and the message tells what is still shown; it
        goes when anything else is changed.
        """
        return []

    def still(self) -> str:
        """The HTML that stays in a saved notebook: the picture, and what else a reader needs."""
        return self.picture()

    def redraw(self) -> None:
        self.view.value = self.picture()

    def say(self, text: str, *, alert: bool = False) -> None:
        """Show `text` in the message line; an alert is read out at once by a screen reader."""
        style = f"{_CARD};border-left:4px solid {RED if alert else BLUE}"
        role, word = ("alert", "<b>Not possible:</b> ") if alert else ("status", "")
        line = f'<div class="{VERBATIM}" role="{role}" style="{style}">{word}{escaped(text)}</div>'
        line = line if text else ""
        if self.message.value != line:
            self.message.value = line

    def complain(self, words: str) -> None:
        self.say(words + self._still(), alert=True)

    def _still(self) -> str:
        """What is shown, where a box of text says something else."""
        shown = [f"{box.description} {text!r}" for box, text in self.texts() if box.value != text]
        return f" (The picture still shows {clipped(', '.join(shown), 90)}.)" if shown else ""

    def reacts(self, function: Callable[[], object]) -> Callable:
        """`function` as a callback: afterwards the view is drawn again.

        Whatever it raises stands in the message line, and state, view and controls are again as
        they were (but see `texts`). What is no Exception, such as a KeyboardInterrupt, goes on from
        there.
        """

        def callback(_=None):
            with self._lock:
                if self._quiet or self._closed:
                    return
                error = self._change(function)
                if error is not None:
                    self.complain(reason(error))
                    if not isinstance(error, Exception):
                        raise error
                elif not self.working:
                    with self._quietly():
                        for box, text in self.texts():
                            box.value = text
                    self.say("")

        return callback

    def _change(self, function: Callable[[], object]) -> BaseException | None:
        """Let `function` change the state, and draw it; if that fails, undo it, and return why."""
        before = self._state
        try:
            function()
            self.redraw()
        except BaseException as error:
            self._state = before
            self._settle()
            return error

    def _settle(self) -> None:
        with self._quietly():
            self.settle()

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Callbacks of the explorer's own do not hear what is set within."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    @property
    def working(self) -> bool:
        return self._thread is not None

    def work(
        self,
        doing: str,
        steps: Generator[tuple[int, int], None, object],
        then: Callable[[object], object],
        by: ipywidgets.Widget | None = None,
        stopped: threading.Event | None = None,
    ) -> None:
        """Run `steps` in a thread, with progress and a Stop button; what it returns goes to `then`.

        doing: in words, such as "Generating".
        steps: a generator that yields (done, total) between two steps, and changes no state of the
            explorer. Whatever it raises is shown in the message line.
        then: takes over the result, at once and whole; the view is drawn afterwards. It is not
            called when the work was stopped, or replaced by other work.
        by: the control that began it, which stays enabled so that it keeps the keyboard's focus.
        stopped: an event that is set when the work is to stop, for `steps` that look between two
            yields. It is this work's own.
        """
        stopped = stopped or threading.Event()

        def show() -> None:
            with self._lock:
                if not stopped.is_set():
                    self._disable(by)
                    self._busy.layout.display = ""
                    self.say(f"{doing} …")

        def run() -> None:
            result, words = None, ""
            try:
                result = self._run(doing, steps, stopped)
            except BaseException as error:  # nobody else would hear of it
                words = reason(error)
            with self._lock:
                if stopped.is_set():
                    return
                self._end()
                if words:
                    self._settle()
                elif error := self._change(lambda: then(result)):
                    words = reason(error)
                if words:
                    self.complain(words)
                else:
                    self.say("")

        timer = threading.Timer(_PATIENCE, show)
        timer.daemon = True
        thread = threading.Thread(target=run, daemon=True)
        with self._lock:
            self._end()
            self._stopped, self._timer = stopped, timer
            self._progress.value = 0.0
            timer.start()
            try:
                thread.start()
            except RuntimeError:  # the system has no more threads
                self._end()
                raise
            self._thread = thread

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
                self._end()
                self._settle()
                self.say("Stopped; everything is as it was." + self._still())

    def wait(self, timeout: float | None = None) -> None:
        """Until the work under way is done, `timeout` seconds at most."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def close(self) -> None:
        """End the work, close all widgets that belong to the explorer, and let go of the model and
        of all that was read."""
        # Also called when Python throws away what a constructor has not finished.
        with vars(self).get("_lock") or nullcontext():
            if not self._closed:
                if self.working:
                    self._end()
                self._closed = True
                for widget in _parts(self):
                    if widget is not self:
                        widget.close()
        super().close()
        self._state = self.model = self.tokenizer = None

    def _disable(self, by: ipywidgets.Widget | None) -> None:
        for widget in (part for control in self._controls for part in _parts(control)):
            if widget is not by and getattr(widget, "disabled", None) is False:
                widget.disabled = True
                self._disabled.append(widget)

    def _end(self) -> None:
        """Drop the work under way, and give the controls back."""
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()
        self._thread = self._timer = None
        self._busy.layout.display = "none"
        while self._disabled:
            self._disabled.pop().disabled = False

    def __repr__(self) -> str:
        with vars(self).get("_lock") or nullcontext():
            return f"{type(self).__name__}, closed" if self._closed else self.as_text()

    def _repr_mimebundle_(self, **kwargs):
        """What ipywidgets shows live, and for a notebook without its kernel the present picture."""
        with self._lock:
            self.redraw()  # code may have changed the state since
            bundle = super()._repr_mimebundle_(**kwargs) or {}
            return {**bundle, "text/html": self.still(), "text/plain": repr(self)}


def _parts(widget: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    """All widgets that `widget` is made of, down to layouts and styles, itself included."""
    found, waiting = {}, [widget]
    while waiting:
        part = waiting.pop()
        if id(part) not in found:
            found[id(part)] = part
            for value in (getattr(part, name) for name in part.keys):
                values = value if isinstance(value, (list, tuple)) else [value]
                waiting += [v for v in values if isinstance(v, ipywidgets.Widget)]
    return list(found.values())


def reason(error: BaseException) -> str:
    """An error in words: our own refusals as they are, any other with its type."""
    text, kind = str(error).strip(), type(error).__name__
    if not (text and type(error) in (ValueError, TypeError)):
        text = f"{kind}: {text}" if text else kind
        logging.getLogger(__name__).debug("%s in an explorer", kind, exc_info=error)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"


def of_state(name: str) -> property:
    """An attribute that is read from the state."""
    return property(lambda self: getattr(self.state, name))


def result_of(steps: Generator):
    """What a generator such as `work` takes returns, at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def tokens_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    max_new_tokens: int | None = 1,
    *,
    add_special_tokens: bool = True,
    name: str = "prompt",
) -> Tensor:
    """The tokens of one text, shape (1, tokens), that the model can read and continue.

    Raises TypeError or ValueError that names `name` where it is no text, empty, too long (unless
    max_new_tokens is None), or holds a token that the model has no embedding for. The model does
    not run.
    """
    check_model(model)
    arguments.text(name, text)
    input_ids, _ = encode(
        tokenizer, text, name=name, add_special_tokens=add_special_tokens,
        vocab_size=vocab_size(model),
    )  # fmt: skip
    if max_new_tokens is not None:
        check_length(model, input_ids.shape[1], max_new_tokens)
    return input_ids


def read(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    add_special_tokens: bool = True,
) -> tuple[Tensor, Tensor]:
    """One pass: the tokens of `text`, shape (1, tokens), and the next one's logits, shape
    (1, vocabulary), float32; both on the CPU. Raises as `tokens_of` does, before the pass."""
    input_ids = tokens_of(model, tokenizer, text, add_special_tokens=add_special_tokens)
    return input_ids, Prefix(model, input_ids).next_logits().cpu()


# HTML: pure functions from text that is HTML already (`escaped` makes it so) to HTML


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

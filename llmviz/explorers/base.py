"""What the explorers in the browser share: what Python sends, what it hears, and the still picture.

Python sends a state once; the browser draws it, and says what the reader has moved (`chosen`), so
that repr, figure, saved picture and code follow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import nullcontext
from os import PathLike
from pathlib import Path

import anywidget
import traitlets

from ..widgets.base import reason
from .page import document, save

MODULE = Path(__file__).with_name("explorers.js")
_PATIENCE = 0.3  # seconds that work may take before it shows itself


class Explorer(anywidget.AnyWidget):
    """What the browser draws, and a picture of it in the saved notebook.

    A subclass makes its first state, sets `model` and `tokenizer`, calls `super().__init__(state=…,
    chosen=…, …)` with the traits below, and has
        take(chosen) → dict  what the reader moved, checked, as plain Python; raises where it will
                             not do, and otherwise keeps whatever follows from it
        picture() → str      the state as HTML, self-contained, all text escaped
        as_text() → str      the state as text, the same on every machine
        title                a line of text, for the page
        figure(ax=None)      the state with matplotlib
        on_NAME(content)     for each message {"type": NAME, …} that the browser may send
    In the browser a class of explorers.js belongs to it, by `state["kind"]`.
    """

    # As text: of a path anywidget would watch the file, and keep every explorer for it.
    _esm = MODULE.read_text(encoding="utf8")

    state = traitlets.Dict().tag(sync=True)  # what Python has found, as JSON
    labels = traitlets.List().tag(sync=True)  # of all tokens, where they are needed, by id
    logits = traitlets.Bytes().tag(sync=True)  # float32, little-endian
    weights = traitlets.Bytes().tag(sync=True)  # uint16, little-endian
    chosen = traitlets.Dict().tag(sync=True)  # what the reader has moved, as JSON
    answer = traitlets.Dict().tag(sync=True)  # what the kernel has answered since, as JSON

    message = ""  # what the message line says
    _worker: threading.Thread | None = None
    _stopped = threading.Event()  # set when the work under way is to stop
    _closed = False

    def __init__(self, **traits):
        self._lock = threading.RLock()
        super().__init__(**traits)
        self.on_msg(self._on_message)

    def take(self, chosen: dict) -> dict:
        raise NotImplementedError

    def picture(self) -> str:
        raise NotImplementedError

    def as_text(self) -> str:
        raise NotImplementedError

    def still(self) -> str:
        """The HTML that stays in a saved notebook: the picture, and what else a reader needs."""
        return self.picture()

    def check_open(self) -> None:
        """Raise ValueError once the explorer is closed."""
        if self._closed:
            raise ValueError(f"this {type(self).__name__} is closed: make a new one")

    # What the browser says

    @traitlets.validate("chosen")
    def _check_chosen(self, proposal) -> dict:
        self.check_open()
        with self._lock:
            return self.take(proposal["value"])

    def set_state(self, sync_data: dict) -> None:
        """Take over what the browser has changed; what will not do is said there, and undone."""
        with self._lock:
            try:
                if "chosen" in sync_data:
                    sync_data = {**sync_data, "chosen": self.take(sync_data["chosen"])}
            except Exception as error:
                self.say(reason(error), alert=True)
                self.send_state("chosen")
            else:
                self.message = ""
                super().set_state(sync_data)

    def _on_message(self, _, content, buffers) -> None:
        """Hand a message of the browser's on; what is raised stands in the message line."""
        handler = getattr(self, f"on_{content.get('type')}", None)
        if handler is None or self._closed:
            return
        with self._lock:
            self.message = ""  # the browser's own line is empty when it asks for something
            try:
                if "chosen" in content:  # so far it may still be under way
                    self.chosen = content["chosen"]
                handler(content)
            except Exception as error:
                self.say(reason(error), alert=True)

    def say(self, text: str, *, alert: bool = False, busy: bool = False) -> None:
        """Show `text` in the message line: an alert is read out at once, work can be stopped."""
        self.message = text
        self.send({"type": "message", "text": text, "alert": alert, "busy": busy})

    # Work in the background

    @property
    def working(self) -> bool:
        return self._worker is not None

    def work(
        self,
        doing: str,
        steps: Generator[tuple[int, int], None, object],
        then: Callable[[object], object],
    ) -> None:
        """Run `steps` in a thread, with progress and a Stop button; what it returns goes to `then`.

        doing: in words, such as "Reading the text".
        steps: a generator that yields (done, total) between two steps, and changes no state of the
            explorer. Whatever it raises is shown in the message line.
        then: takes over the result, at once and whole. It is not called when the work was stopped,
            or replaced by other work.
        """
        stopped = threading.Event()

        def say(words: str) -> None:
            with self._lock:
                if not stopped.is_set():
                    self.say(f"{doing}{words}", busy=True)

        def run() -> None:
            shown = threading.Timer(_PATIENCE, say, [" …"])
            shown.daemon = True
            shown.start()
            result, words = None, ""
            try:
                result = _result(
                    steps, stopped, lambda d, n: shown.is_alive() or say(f": {d} of {n}")
                )
            except BaseException as error:  # nobody else would hear of it
                words = reason(error)
            shown.cancel()
            with self._lock:
                if stopped.is_set():
                    return
                stopped.set()
                self._worker = None
                try:
                    if not words:
                        then(result)
                except Exception as error:
                    words = reason(error)
                self.say(words, alert=bool(words))

        with self._lock:
            self._stopped.set()
            self._stopped = stopped
            self._worker = threading.Thread(target=run, daemon=True)
            self._worker.start()

    def on_stop(self, _) -> None:
        self.stop()

    def stop(self) -> None:
        """End the work under way, if any, and drop what it has made."""
        with self._lock:
            if self.working:
                self._stopped.set()
                self._worker = None
                self.send_state("state")  # the fields go back to what is shown
                self.say("Stopped; everything is as it was.")

    def wait(self, timeout: float | None = None) -> None:
        """Until the work under way is done, `timeout` seconds at most."""
        worker = self._worker
        if worker is not None and worker is not threading.current_thread():
            worker.join(timeout)

    # What stays

    def to_html(self, path: str | PathLike) -> Path:
        """Write the explorer as it stands into one HTML file, which needs no network and no kernel.

        Returns the path. Raises TypeError for what is no path, OSError for one that cannot be
        written; a file of that name is replaced, once the new one is whole.
        """
        self.check_open()
        return save(path, document(self.title, [self.parts()]))

    def parts(self) -> dict:
        """All that the browser needs, by name: JSON, and bytes."""
        names = ("state", "labels", "chosen", "answer", "logits", "weights")
        return {name: value for name in names if (value := getattr(self, name))}

    def close(self) -> None:
        """End the work, and let go of the model and of all that was read."""
        # Also called when Python throws away what a constructor has not finished.
        with vars(self).get("_lock") or nullcontext():
            self._stopped.set()
            self._worker, self._closed = None, True
            if self.comm is not None:
                self.layout.close()
        super().close()
        self.model = self.tokenizer = None

    def __repr__(self) -> str:
        with vars(self).get("_lock") or nullcontext():
            return f"{type(self).__name__}, closed" if self._closed else self.as_text()

    def _repr_mimebundle_(self, **kwargs):
        """What anywidget shows live, and for a notebook without its kernel the present picture."""
        with self._lock:
            data, metadata = super()._repr_mimebundle_(**kwargs)
            return {**data, "text/html": self.still(), "text/plain": repr(self)}, metadata


def _result(steps: Generator, stopped: threading.Event, progress: Callable[[int, int], object]):
    """What a generator returns in the end; None once it was stopped."""
    try:
        while not stopped.is_set():
            progress(*next(steps))
    except StopIteration as end:
        return end.value
    finally:
        steps.close()

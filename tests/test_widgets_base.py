"""What all explorers share: errors in words, work that can be stopped, a picture that stays."""

import gc
import threading
import weakref

import ipywidgets
import pytest
import torch

from llmviz import colours
from llmviz.widgets import base
from llmviz.widgets.base import Explorer, bar, card, table, token
from tests.hostile import TEXTS
from tests.views import assert_harmless, assert_leaves_a_picture


class Counter(Explorer):
    """As small as an explorer can be."""

    number = property(lambda self: self.state)

    def __init__(self):
        self._state = 0
        self.slider = ipywidgets.IntSlider(description="number")
        self.button = ipywidgets.Button(description="Count")
        self.idle = ipywidgets.Button(description="Idle", disabled=True)
        self.slider.observe(self.reacts(self._slide), "value")
        self.button.on_click(lambda _: self.count(3, by=self.button))
        super().__init__(self.slider, ipywidgets.HBox([self.button, self.idle]))

    def _slide(self):
        if self.slider.value == 13:
            raise ValueError("13 is <b>unlucky</b>")
        self._state = self.slider.value

    def count(self, most, gate=None, by=None, error=None, at_work=True):
        def steps():
            for done in range(most):
                if gate:
                    assert gate.wait(10)
                yield done, most
            if error and at_work:
                raise error
            return 100 + most

        def then(number):
            self._state = number
            if error:
                raise error

        self.work("Counting", steps(), then, by=by)

    def settle(self):
        self.slider.value = min(self.state, 100)

    def picture(self):
        if self.number == 66:
            raise RuntimeError("66 cannot be drawn")
        return card(f"number {self.number}")

    def as_text(self):
        return f"Counter at {self.number}"


def test_a_control_changes_the_view_and_an_error_is_shown_in_words():
    explorer = Counter()
    explorer.slider.value = 5
    assert "number 5" in explorer.view.value
    explorer.slider.value = 13
    assert 'role="alert"' in explorer.message.value
    assert "13 is &lt;b&gt;unlucky" in explorer.message.value
    assert "number 5" in explorer.view.value
    assert_harmless(explorer.message.value)
    explorer.slider.value = 6
    assert explorer.message.value == "" and "number 6" in explorer.view.value


@pytest.mark.parametrize(
    "error, words",
    [
        (RuntimeError("device <b>lost</b>"), "RuntimeError: device &lt;b&gt;lost"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "MemoryError"),
        (KeyError("top_k"), "KeyError: &#x27;top_k&#x27;"),
        (torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory"),
        (ValueError("too long"), "Not possible:</b> too long"),
        (RuntimeError("x" * 5000), "x …"),
    ],
)
def test_whatever_a_control_raises_is_shown_and_undone(error, words):
    explorer = Counter()
    explorer.slider.value = 5
    before = explorer.view.value

    def fails():
        explorer._state = 8
        raise error

    explorer.reacts(fails)()
    assert words in explorer.message.value and 'role="alert"' in explorer.message.value
    assert len(explorer.message.value) < 2000
    assert explorer.number == 5 and explorer.view.value == before
    assert_harmless(explorer.message.value)
    explorer.slider.value = 6
    assert explorer.message.value == "" and explorer.number == 6


def test_an_interrupt_in_a_control_is_shown_and_goes_on():
    explorer = Counter()

    def fails():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explorer.reacts(fails)()
    assert "KeyboardInterrupt" in explorer.message.value


def test_what_cannot_be_drawn_is_undone():
    explorer = Counter()
    explorer.slider.value = 5
    explorer.slider.value = 66
    assert "66 cannot be drawn" in explorer.message.value
    assert explorer.number == 5 and "number 5" in explorer.view.value
    explorer.slider.value = 7
    assert explorer.number == 7


def test_after_an_error_the_control_says_what_the_picture_shows():
    explorer = Counter()
    explorer.slider.value = 5
    explorer.slider.value = 13
    assert "13 is" in explorer.message.value
    assert explorer.slider.value == 5 == explorer.number
    assert_harmless(explorer.message.value)


def test_it_leaves_a_picture():
    assert_leaves_a_picture(Counter())


def test_work_takes_over_its_result():
    explorer = Counter()
    explorer.button.click()
    explorer.wait(10)
    assert explorer.number == 103 and "number 103" in explorer.view.value
    assert not explorer.working and explorer.message.value == ""


def shown(explorer):
    return explorer._busy.layout.display != "none"


def wait_until(condition, seconds=10):
    event = threading.Event()
    for _ in range(int(seconds * 100)):
        if condition():
            return
        event.wait(0.01)
    raise AssertionError("it did not happen")


def test_long_work_shows_itself_and_disables_all_but_what_began_it(monkeypatch):
    monkeypatch.setattr(base, "_PATIENCE", 0.01)
    explorer, gate = Counter(), threading.Event()
    explorer.count(2, gate, by=explorer.button)
    wait_until(lambda: explorer.slider.disabled)
    assert shown(explorer) and "Counting" in explorer.message.value
    assert 'role="status"' in explorer.message.value
    assert not explorer.button.disabled and not explorer._stop.disabled
    gate.set()
    wait_until(lambda: not explorer.working)
    assert not explorer.slider.disabled and explorer.idle.disabled
    assert not shown(explorer) and explorer.number == 102


def test_stop_drops_what_arrives_later(monkeypatch):
    monkeypatch.setattr(base, "_PATIENCE", 0.01)
    explorer, gate = Counter(), threading.Event()
    explorer.count(2, gate)
    thread = explorer._thread
    wait_until(lambda: shown(explorer))
    explorer._stop.click()
    assert not explorer.working and not explorer.slider.disabled and not shown(explorer)
    assert "Stopped" in explorer.message.value
    gate.set()
    thread.join(10)
    assert explorer.number == 0 and "number 0" in explorer.view.value
    explorer.slider.value = 4
    assert explorer.number == 4 and explorer.message.value == ""


def test_newer_work_replaces_older():
    explorer, gate = Counter(), threading.Event()
    explorer.count(2, gate)
    old = explorer._thread
    explorer.count(5)
    explorer.wait(10)
    gate.set()
    old.join(10)
    assert explorer.number == 105


def test_an_error_at_work_is_shown_and_the_next_work_succeeds():
    explorer = Counter()
    explorer.count(1, error=ValueError("too long"))
    explorer.wait(10)
    assert "too long" in explorer.message.value and explorer.number == 0
    assert not explorer.working
    explorer.count(1)
    explorer.wait(10)
    assert explorer.number == 101 and explorer.message.value == ""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no memory"), torch.OutOfMemoryError("no memory"), OSError("no memory"),
        MemoryError("no memory"), KeyboardInterrupt("no memory"), SystemExit("no memory"),
        KeyError("no memory"), AssertionError("no memory"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("when", ["at work", "taking over"])
def test_any_error_at_work_is_shown(error, when, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: pytest.fail("it left the thread"))
    monkeypatch.setattr(base, "_PATIENCE", 0.0)
    explorer, gate = Counter(), threading.Event()
    explorer.slider.value = 5
    before = explorer.view.value
    explorer.count(2, gate, error=error, at_work=when == "at work")
    wait_until(lambda: shown(explorer))
    gate.set()
    explorer.wait(10)
    assert f"{type(error).__name__}: " in explorer.message.value
    assert "no memory" in explorer.message.value and 'role="alert"' in explorer.message.value
    assert not explorer.working and not explorer.slider.disabled and not shown(explorer)
    assert explorer.number == 5 and explorer.view.value == before
    explorer.count(1)
    explorer.wait(10)
    assert explorer.number == 101 and explorer.message.value == ""


def test_a_thread_that_cannot_start_is_an_error_like_any_other(monkeypatch):
    explorer = Counter()

    def no_more(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    explorer.reacts(lambda: explorer.count(1))()
    assert "start new thread" in explorer.message.value and not explorer.working


def test_close_frees_all_widgets():
    gc.collect()
    before = len(widgets())
    explorer, gate = Counter(), threading.Event()
    explorer._repr_mimebundle_()
    assert len(widgets()) > before + 10
    explorer.count(2, gate)
    thread = explorer._thread
    explorer.close()
    assert len(widgets()) == before and not explorer.working
    gate.set()
    thread.join(10)
    explorer.close()  # once more does no harm
    assert repr(explorer) == "Counter, closed"
    with pytest.raises(ValueError, match="this Counter is closed"):
        explorer.state  # noqa: B018
    gone = weakref.ref(explorer)
    del explorer, thread
    wait_until(lambda: gc.collect() is not None and gone() is None)  # a timer may still be ending


def widgets():
    return ipywidgets.widgets.widget._instances


def test_pieces_of_html():
    for text in TEXTS:
        assert_harmless(card(table(["a", "b"], [[token(text), bar(0.5, colours.BLUE)]], "lr")))
    assert "width:120px" in bar(0.5, colours.BLUE)
    assert "width:240px" in bar(7.0, colours.BLUE) and "width:0px" in bar(-1.0, base.BLUE)
    assert bar(0.50001, colours.BLUE) == bar(0.49999, base.BLUE)
    with pytest.raises(ValueError):
        table(["a", "b"], [["only one"]], "lr")

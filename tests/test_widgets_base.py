"""What all explorers share: errors in words, work that can be stopped, a picture that stays."""

import threading

import ipywidgets
import pytest

from llmviz.widgets import base
from llmviz.widgets.base import Explorer, bar, card, table, token
from tests.hostile import TEXTS
from tests.views import assert_harmless, assert_leaves_a_picture


class Counter(Explorer):
    """As small as an explorer can be."""

    def __init__(self):
        self.number = 0
        self.slider = ipywidgets.IntSlider(description="number")
        self.button = ipywidgets.Button(description="Count")
        self.idle = ipywidgets.Button(description="Idle", disabled=True)
        self.slider.observe(self.reacts(self._slide), "value")
        self.button.on_click(lambda _: self.count(3, by=self.button))
        super().__init__(self.slider, ipywidgets.HBox([self.button, self.idle]))

    def _slide(self):
        if self.slider.value == 13:
            raise ValueError("13 is <b>unlucky</b>")
        self.number = self.slider.value

    def count(self, most, gate=None, by=None, error=None):
        def steps():
            for done in range(most):
                if gate:
                    assert gate.wait(10)
                yield done, most
            if error:
                raise error
            return 100 + most

        self.work("Counting", steps(), self._set, by=by)

    def _set(self, number):
        self.number = number

    def picture(self):
        return card(f"number {self.number}")

    def __repr__(self):
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


def test_other_errors_are_not_swallowed():
    explorer = Counter()
    with pytest.raises(ZeroDivisionError):
        explorer.reacts(lambda: 1 / 0)()


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


def test_an_unforeseen_error_leaves_the_controls_usable(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    explorer = Counter()
    explorer.count(1, error=RuntimeError("no memory"))
    explorer.wait(10)
    assert not explorer.working and not explorer.slider.disabled


def test_pieces_of_html():
    for text in TEXTS:
        assert_harmless(card(table(["a", "b"], [[token(text), bar(0.5, base.BLUE)]], "lr")))
    assert "width:120px" in bar(0.5, base.BLUE)
    assert "width:240px" in bar(7.0, base.BLUE) and "width:0px" in bar(-1.0, base.BLUE)
    assert bar(0.50001, base.BLUE) == bar(0.49999, base.BLUE)
    with pytest.raises(ValueError):
        table(["a", "b"], [["only one"]], "lr")

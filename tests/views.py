"""What every explorer's HTML must be, whatever its tokens hold."""

import re
from html.parser import HTMLParser

from llmviz.html import VERBATIM
from llmviz.tokens import printable

ELEMENTS = {
    "b", "br", "div", "i", "img", "pre", "s", "span", "table", "tbody", "td", "th", "thead", "tr",
    "wbr",
}  # fmt: skip
ATTRIBUTES = {"alt", "class", "colspan", "role", "src", "style", "title"}


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.open = [], []
        self.outermost, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if not self.open:
            self.outermost.append(dict(attributes))
        if tag not in ("br", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.texts.append(data)


def assert_harmless(html: str) -> None:
    """Only our own elements, all of them closed, with plain styles; nothing runs or is fetched."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    for tag, attributes in reader.found:
        assert tag in ELEMENTS, tag
        assert attributes.keys() <= ATTRIBUTES, attributes
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert not re.search(r"var\(|hsl|url\(|expression|position:", attributes.get("style") or "")
        assert attributes.get("class", VERBATIM) == VERBATIM
    # A notebook reads nothing as mathematics: it leaves elements of these classes alone, and finds
    # no formula across the ends of an element either.
    assert all(attributes.get("class") == VERBATIM for attributes in reader.outermost)
    assert all(text in "$\\" for text in reader.texts if re.search(r"[$\\]", text))
    assert printable(html) == html, "control characters"


def assert_readable_anywhere(html: str) -> None:
    """Dark ink on white, both said in the HTML itself, so that no theme can change one alone."""
    assert html.startswith(f'<div class="{VERBATIM}" style="background:#ffffff;color:#222222')


def assert_leaves_a_picture(explorer) -> None:
    """What is saved is the present state, twice the same, and harmless."""
    bundle = explorer._repr_mimebundle_()
    assert bundle == explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == repr(explorer)
    assert explorer.view.value in bundle["text/html"]
    assert not re.search(r"\d\.\d{4,}", repr(explorer)), "more than three decimals"
    assert_harmless(bundle["text/html"])
    assert_readable_anywhere(bundle["text/html"])

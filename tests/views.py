"""What every explorer's HTML must be, whatever its tokens hold."""

import re
from html.parser import HTMLParser

ELEMENTS = {
    "b", "br", "div", "i", "img", "pre", "s", "span", "table", "tbody", "td", "th", "thead", "tr",
    "wbr",
}  # fmt: skip
ATTRIBUTES = {"alt", "colspan", "role", "src", "style", "title"}


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("br", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"


def assert_harmless(html: str) -> None:
    """Only our own elements, all of them closed, with plain styles; nothing runs or is fetched."""
    reader = _Reader()
    reader.feed(html)
    assert not reader.open
    for tag, attributes in reader.found:
        assert tag in ELEMENTS, tag
        assert attributes.keys() <= ATTRIBUTES, attributes
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert not re.search(r"var\(|hsl|url\(|expression|position:", attributes.get("style") or "")
    assert not re.search(r"\$[^$&]*\$", html), "a notebook would read it as mathematics"


def assert_readable_anywhere(html: str) -> None:
    """Dark ink on white, both said in the HTML itself, so that no theme can change one alone."""
    assert html.startswith('<div style="background:#ffffff;color:#222222')


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

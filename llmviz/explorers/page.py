"""Explorers on a page of their own: one file, without a network and without a kernel."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from functools import cache
from pathlib import Path
from uuid import uuid4

from .. import arguments
from ..tokens import printable

_MODULE = Path(__file__).with_name("explorers.js")
# Draws each state that stands in the page, in an element after it.
_START = """
const page = new CSSStyleSheet();
page.replaceSync(`body { margin: 12px; } .llmviz { margin: 0 auto 16px; }
  @media (prefers-color-scheme: dark) { body { background: #0d1014; } }`);
document.adoptedStyleSheets = [...document.adoptedStyleSheets, page];
for (const data of document.querySelectorAll("script.llmviz-state")) {
  const parts = JSON.parse(data.textContent);
  for (const [name, text] of Object.entries(parts.bytes))
    parts[name] = new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const el = document.createElement("div");
  data.after(el);
  explorers.render({ model: { get: (name) => parts[name] }, el });
}
"""


def element(parts: dict) -> str:
    """The state of one explorer as HTML, which `script` turns into the explorer.

    parts: JSON and bytes by name, as `Explorer.parts` returns them. It holds no `<` of theirs.
    """
    binary = {k: base64.b64encode(v).decode() for k, v in parts.items() if isinstance(v, bytes)}
    plain = {k: v for k, v in parts.items() if k not in binary}
    data = json.dumps({**plain, "bytes": binary}, allow_nan=False, separators=(",", ":"))
    data = data.replace("<", "\\u003c")
    return f'<script type="application/json" class="llmviz-state">{data}</script>'


@cache
def script() -> str:
    """The module that draws all explorers of a page, for an element script of type module."""
    code = _MODULE.read_text(encoding="utf-8")
    return code.replace("export default", "const explorers =") + _START


def document(title: str, explorers: list[dict]) -> str:
    """A page with these explorers, each as `Explorer.parts` returns it.

    Its policy allows its own script, by its hash, and images within it, and nothing else.
    """
    code = script()
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(printable(title))}</title></head>",
            f"<body><noscript>{html.escape(printable(title))}: this page needs JavaScript."
            "</noscript>",
            *map(element, explorers),
            f'<script type="module">{code}</script></body></html>',
        ]
    )


def save(path: str | os.PathLike, text: str) -> Path:
    """Write a file, whole or not at all. Raises TypeError or OSError that names the path."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise TypeError(f"path={arguments.shown(path)}: it must be the path of a file to write")
    name, path = arguments.shown(path), Path(path)
    if not path.name or "\0" in str(path):
        raise ValueError(f"path={name}: it must be the path of a file to write, such as 'a.html'")
    temporary = None
    try:
        path = Path(os.path.realpath(path))
        if path.exists() and not path.is_file():
            raise OSError("there is something that is no file")
        if not path.parent.is_dir():
            raise OSError(f"there is no folder {arguments.shown(str(path.parent))}")
        temporary = path.with_name(f".{uuid4().hex}.html")
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"path={name}: {error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path

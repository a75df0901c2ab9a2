"""What all figures share: axes, labels that nothing can break, and the way into a notebook."""

from __future__ import annotations

import math
from functools import cache

import matplotlib.pyplot as plt
from matplotlib import font_manager, rcParams
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from .. import arguments
from ..colours import FAINT, INK, MUTED
from ..tokens import clipped, printable

PROBABILITY = LinearSegmentedColormap.from_list("probability", ["#FFFFFF", "#9CCBE8", "#005A8F"])


def show(ax: Axes, alt: str, title: str | None = None) -> None:
    """Show the figure of `ax` in a notebook, and close it.

    Parameters
    ----------
    ax : Axes
        The Axes whose figure to show.
    alt : str
        What the figure shows, in words. It is stored beside the picture, for readers and tools that
        cannot see it, and compared by the notebook tests, which cannot see it either.
    title : str | None
        A sentence that says what to see.

    Raises
    ------
    TypeError, ValueError
        For an `ax` that is no Axes, and an `alt` or `title` that is no text; the figure is closed
        then, too.
    """
    from io import BytesIO

    from IPython.display import display

    figure, png = _checked(ax).figure, BytesIO()
    try:
        if not arguments.text("alt", alt).strip():
            raise ValueError(f"alt={alt!r}: say in words what the figure shows")
        if title is not None:
            title = drawable(arguments.text("title", title))
            ax.set_title(title, loc="left", fontsize=11.5, color=INK, pad=10, parse_math=False)
        figure.savefig(png, format="png", dpi=144, bbox_inches="tight", facecolor="white")
    finally:
        plt.close(figure)
    png = png.getvalue()
    # The width stands in a PNG's bytes 16 to 19. Shown at 80 dots an inch, so sharp on any screen.
    size = {"width": int.from_bytes(png[16:20], "big") * 80 // 144}
    bundle = {"image/png": png, "text/plain": printable(alt)}
    display(bundle, raw=True, metadata={"image/png": size})


def new_axes(ax: Axes | None, width: float = 7.0, height: float = 3.5) -> Axes:
    """`ax`, or one in a figure of its own with this size in inches, in the look of all figures."""
    if ax is None:
        ax = plt.subplots(figsize=(width, height))[1]
    _checked(ax)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)
    ax.tick_params(which="both", colors=MUTED, length=0)
    ax.xaxis.label.set_color(MUTED)
    ax.yaxis.label.set_color(MUTED)
    return ax


def _checked(ax) -> Axes:
    if not isinstance(ax, Axes):
        raise TypeError(f"ax={arguments.shown(ax)}: it must be a matplotlib Axes")
    return ax


def drawable(text: str, most: int | None = None, *, family: str | None = None) -> str:
    """`text` as a figure can draw it, cut to `most` characters.

    A character that the font does not have is written as its code point, such as ⟨U+732B⟩;
    matplotlib would draw a box and print a warning. `family`, such as "monospace", names another
    font than the default. Pass `parse_math=False` along, or `$` is read as mathematics.
    """
    known = _characters(*map(font_manager.findfont, _fonts(family)))
    text = printable(text if most is None else clipped(text, most))
    return "".join(c if c == "\n" or ord(c) in known else f"⟨U+{ord(c):04X}⟩" for c in text)


def _fonts(family: str | None) -> list[font_manager.FontProperties]:
    families = rcParams["font.family"] if family is None else [family]
    return [font_manager.FontProperties(family=[name]) for name in families]


@cache
def _characters(*paths: str) -> set[int]:
    """What these font files can draw."""
    return set().union(*(font_manager.get_font(path).get_charmap() for path in paths))


def token_ticks(axis, labels: list[str], every: int = 1) -> None:
    """Token labels as the ticks of `ax.xaxis` or `ax.yaxis`, at integer positions."""
    axis.set_ticks(range(0, len(labels), every), [drawable(label, 12) for label in labels[::every]])
    for text in axis.get_ticklabels():
        text.set_parse_math(False)
        text.set_color(INK)


def legend(ax: Axes, lines: list, names: list[str], **style) -> None:
    """A legend of these lines, by names that are never read as mathematics."""
    # A name that begins with _ would be left out, so it is written afterwards.
    made = ax.legend(lines, ["x"] * len(lines), frameon=False, **style)
    for text, name in zip(made.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(drawable(name, 30))


def lists_of(name: str, value, low: float = 0.0, most: int = 30) -> dict[str, list[float]]:
    """Lists of finite numbers by their names, as one line each is drawn."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name}={arguments.shown(value)}: it must be a dict of lists, by name")
    if not 1 <= len(value) <= most:
        raise ValueError(f"{name} has {len(value)} entries: pass 1 to {most}")
    return {
        key: arguments.numbers_of(f"{name}[{arguments.shown(key)}]", row, low=low)
        for key, row in value.items()
    }


def few(name: str, labels: list[str], most: int) -> None:
    """Raise ValueError where there are more labels than can be read."""
    if len(labels) > most:
        raise ValueError(
            f"{name} has {len(labels):,} entries: at most {most} can be drawn, pass the first ones"
        )


def no_spines(ax: Axes) -> None:
    for spine in ax.spines.values():
        spine.set_visible(False)


def every_so_many(count: int, most: int) -> int:
    """The step between labels where only `most` of `count` have room."""
    return math.ceil(count / most)

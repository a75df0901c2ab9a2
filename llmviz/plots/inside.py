"""Figures of what goes on inside a model: attention, hidden states, the lens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm

from .. import arguments
from ..colours import BLUE, FAINT, INK, MUTED, ORANGE, RED, SERIES
from .axes import (
    PROBABILITY,
    drawable,
    every_so_many,
    legend,
    lists_of,
    new_axes,
    no_spines,
    token_ticks,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import ArrayLike
    from torch import Tensor

_COSINE = LinearSegmentedColormap.from_list("cosine", [RED, "#FFFFFF", BLUE])
_ROOTS = PowerNorm(0.5, vmin=0, vmax=1)
_HIGHEST = 16  # inches
_SHARE = {"low": 0.0, "high": 1.001}  # bounds of a weight, which may be rounded
_HIDDEN = ("layers + 1", "tokens", "width")


def plot_attention_overview(
    weights: Tensor | ArrayLike,
    labels: Iterable[str],
    *,
    layer: int = 0,
    head: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """All attention maps of a model as small multiples, and one of them enlarged below.

    Parameters
    ----------
    weights : Tensor | ArrayLike
        Shape (layers, heads, tokens, tokens), as `llmviz.attentions` gives them. A column is a
        layer, from the first at the left; a row is a head. In each map a row is a query and a
        column a key.
    labels : Iterable[str]
        A readable text per token.
    layer : int
        Of the map to enlarge, from 0; it is framed in the overview.
    head : int
        Of the map to enlarge, from 0.
    ax : Axes | None
        Where to draw; a figure of its own unless given.

    Returns
    -------
    Axes
        `ax`, or the new one.

    Raises
    ------
    TypeError, ValueError
        For other shapes, and weights that are not from 0 to 1.

    Notes
    -----
    The darker, the more weight, on a scale of square roots, so that small weights are seen. Where a
    map has more tokens than dots, a dot shows the largest weight in it.
    """
    weights = arguments.tensor("weights", weights, "layers", "heads", "tokens", "tokens", **_SHARE)
    layers, heads, tokens, _ = weights.shape
    labels = arguments.labels("labels", labels, tokens, "weights")
    layer = arguments.whole("layer", layer, 0, layers - 1)
    head = arguments.whole("head", head, 0, heads - 1)
    width, height = 10, max(10 * heads / layers, 1.2)
    if height > _HIGHEST:  # many heads in few layers
        width, height = max(_HIGHEST * layers / heads, 2), _HIGHEST
    ax = new_axes(ax, width=width, height=height)
    dots = min(tokens, max(1440 // max(layers, heads) - 4, 8))
    small = torch.nn.functional.adaptive_max_pool2d(weights, dots)
    if _is_causal(weights):
        small = _past(small)
    gap = max(dots // 8, 1)
    padded = torch.nn.functional.pad(small, (0, gap, 0, gap), value=math.nan)
    mosaic = padded.permute(1, 2, 0, 3).reshape(heads * (dots + gap), layers * (dots + gap))
    extent = (-0.5, layers - 0.5, heads - 0.5, -0.5)
    ax.imshow(mosaic.numpy(), cmap=_attention_colours(), norm=_ROOTS, extent=extent, aspect="auto",
              interpolation="nearest")  # fmt: skip
    share = gap / (dots + gap)
    frame = {"facecolor": "none", "edgecolor": ORANGE, "linewidth": 2}
    ax.add_patch(plt.Rectangle((layer - 0.5 - share / 2, head - 0.5 - share / 2), 1, 1, **frame))
    for axis, count in ((ax.xaxis, layers), (ax.yaxis, heads)):
        axis.set_ticks(range(0, count, 1 if count <= 32 else 4 * every_so_many(count, 160)))
    ax.set_xlabel("layer")
    ax.set_ylabel("head")
    no_spines(ax)
    size = min(2.2 + 0.2 * tokens, 6.5)
    width, height = ax.figure.get_size_inches() * ax.get_position().size
    below = ax.inset_axes((0.16, -(size + 0.95) / height, size / width, size / height))
    plot_attention(weights[layer, head], labels, ax=below)
    below.set_title(f"layer {layer}, head {head}", fontsize=10, color=INK, loc="left")
    for spine in below.spines.values():
        spine.set(visible=True, color=ORANGE, linewidth=2)
    return ax


def plot_attention(
    weights: Tensor | ArrayLike, labels: Iterable[str], *, ax: Axes | None = None
) -> Axes:
    """One head's attention: a row is a query token, a column a key that it looks at.

    Parameters
    ----------
    weights : Tensor | ArrayLike
        Shape (tokens, tokens), from 0 to 1. A row adds up to 1, or to less in a model with
        attention sinks, such as gpt-oss. Shades are on a scale of square roots.
    labels : Iterable[str]
        A readable text per token.
    ax : Axes | None
        Where to draw; a figure of its own unless given.

    Returns
    -------
    Axes
        `ax`, or the new one.

    Raises
    ------
    TypeError, ValueError
        For other shapes and values.
    """
    weights = arguments.tensor("weights", weights, "tokens", "tokens", **_SHARE)
    tokens = len(weights)
    labels = arguments.labels("labels", labels, tokens, "weights")
    side = min(1.2 + 0.28 * tokens, 7)
    ax = new_axes(ax, width=side, height=side)
    # A dot of the picture is never less than a token, however many there are.
    ax.imshow(
        _past(weights).numpy(), cmap=_attention_colours(), norm=_ROOTS, interpolation="nearest"
    )
    every = every_so_many(tokens, 40)
    for axis in (ax.xaxis, ax.yaxis):
        token_ticks(axis, labels, every)
    ax.tick_params(axis="x", labelrotation=90)
    ax.set_xlabel("key: the token looked at")
    ax.set_ylabel("query: the token that looks")
    no_spines(ax)
    return ax


def plot_ranks(ranks: Mapping[str, ArrayLike], *, ax: Axes | None = None) -> Axes:
    """A token's rank after each layer, 1 on top, on a logarithmic scale: a line per list.

    Parameters
    ----------
    ranks : Mapping[str, ArrayLike]
        By name, a list of one rank per layer, from layer 0, the embedding; such as `logit_lens(…,
        position=-1, target=" Paris").target_rank`.
    ax : Axes | None
        Where to draw; a figure of its own unless given.

    Returns
    -------
    Axes
        `ax`, or the new one.

    Raises
    ------
    TypeError, ValueError
        For no list, more than 30, or a rank that is no number from 1.
    """
    rows = lists_of("ranks", ranks, low=1)
    ax = new_axes(ax, width=8, height=3.4)
    lines = []
    for i, values in enumerate(rows.values()):
        style = {"color": SERIES[i % len(SERIES)], "marker": "osD^v"[i % 5], "markersize": 4}
        lines += ax.plot(range(len(values)), values, linewidth=1.6, **style)
    ax.locator_params(axis="x", integer=True)
    ax.set_yscale("log")
    ax.set_ylim(2 * max(map(max, rows.values())), 0.7)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel("layer")
    ax.set_ylabel("rank")
    if len(rows) > 1:
        # Beside the lines, which may run anywhere.
        legend(ax, lines, list(rows), loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plot_similarity(hidden: Tensor | ArrayLike, *, ax: Axes | None = None) -> Axes:
    """How much the hidden states of each two layers point the same way: their cosine, averaged over
    the tokens.

    Parameters
    ----------
    hidden : Tensor | ArrayLike
        Shape (layers + 1, tokens, width), as `llmviz.hidden_states` gives them.
    ax : Axes | None
        Where to draw; a figure of its own unless given.

    Returns
    -------
    Axes
        `ax`, or the new one.

    Raises
    ------
    TypeError, ValueError
        For other shapes, and numbers that are not finite.
    """
    hidden = arguments.tensor("hidden", hidden, *_HIDDEN)
    unit = torch.nn.functional.normalize(hidden.double(), dim=-1)
    cosines = torch.einsum("itw,jtw->ij", unit, unit) / hidden.shape[1]
    ax = new_axes(ax, width=5.6, height=4.8)
    # Cosines run from -1 to 1; white is 0, where nothing is shared.
    image = ax.imshow(cosines.numpy(), cmap=_COSINE, vmin=-1, vmax=1, origin="lower")
    bar = ax.figure.colorbar(image, ax=ax, label="cosine", shrink=0.8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, length=0)
    bar.ax.yaxis.label.set_color(MUTED)
    ax.set_xlabel("layer")
    ax.set_ylabel("layer")
    no_spines(ax)
    return ax


def plot_norms(
    hidden: Tensor | ArrayLike, labels: Iterable[str], *, ax: Axes | None = None
) -> Axes:
    """The length of each token's hidden state after each layer, on a logarithmic scale.

    Parameters
    ----------
    hidden : Tensor | ArrayLike
        Shape (layers + 1, tokens, width), as `llmviz.hidden_states` gives them, which have been
        through the final norm at the last layer. The token with the longest one is singled out, and
        named.
    labels : Iterable[str]
        A readable text per token.
    ax : Axes | None
        Where to draw; a figure of its own unless given.

    Returns
    -------
    Axes
        `ax`, or the new one.

    Raises
    ------
    TypeError, ValueError
        For other shapes, numbers that are not finite, and a state of length 0, which has no place
        on this scale.
    """
    hidden = arguments.tensor("hidden", hidden, *_HIDDEN)
    labels = arguments.labels("labels", labels, hidden.shape[1], "hidden")
    norms = hidden.double().norm(dim=-1)
    if not norms.all():
        at = (norms == 0).nonzero()[0].tolist()
        raise ValueError(f"hidden{at} has the length 0: leave it out of a logarithmic scale")
    longest = int(norms.amax(0).argmax())
    ax = new_axes(ax, width=8, height=3.6)
    for token in range(len(labels)):
        style = {"color": FAINT, "linewidth": 1}
        if token == longest:
            style = {"color": ORANGE, "linewidth": 2.4, "zorder": 3}
        ax.plot(norms[:, token].tolist(), **style)
    peak = int(norms[:, longest].argmax())
    ax.annotate(
        f"{drawable(labels[longest], 12)} (token {longest})", (peak, norms[peak, longest].item()),
        xytext=(6, 4), textcoords="offset points", color=RED, fontsize=9, parse_math=False,
    )  # fmt: skip
    ax.set_yscale("log")
    ax.set_xlabel("layer")
    ax.set_ylabel("length (L2 norm)")
    return ax


def _is_causal(weights: torch.Tensor) -> bool:
    return not weights.triu(1).any()


def _past(weights: torch.Tensor) -> torch.Tensor:
    """Causal weights without those of later tokens, which are 0 by construction."""
    size = weights.shape[-1]
    later = torch.ones(size, size, dtype=torch.bool).triu(1)
    return weights.masked_fill(later, math.nan)


def _attention_colours():
    return PROBABILITY.with_extremes(bad="#F3F4F6")

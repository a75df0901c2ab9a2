"""Figures with matplotlib: every function takes `ax=` and returns it.

Functions take numbers and token labels; only `plot_steps` knows a trace. Tokens are drawn at
integer positions, since two tokens can look alike, and never read as mathematics: a token may
well be `$_$`.
"""

from __future__ import annotations

import math
from functools import cache

import matplotlib.pyplot as plt
import torch
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, PowerNorm

from . import processors
from .tokens import clipped
from .trace import Trace

# Okabe and Ito's colours, which colour-blind readers tell apart, on quiet greys.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
INK, MUTED, FAINT = "#222222", "#6B7280", "#D1D5DB"
SERIES = [BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9"]
PROBABILITY = LinearSegmentedColormap.from_list("probability", ["#FFFFFF", "#9CCBE8", "#005A8F"])
COSINE = LinearSegmentedColormap.from_list("cosine", [RED, "#FFFFFF", BLUE])
ROOTS = PowerNorm(0.5, vmin=0, vmax=1)


def plot_probabilities(
    probabilities, labels: list[str], *, chosen: int | None = None, rest: bool = True, ax=None
) -> Axes:
    """Horizontal bars of the likeliest next tokens, the likeliest on top.

    probabilities: one a label, from 0 to 1, in the order to draw.
    chosen: the position of a bar to single out.
    rest: add a hollow bar for all other tokens together, 1 minus the sum.
    """
    values = [float(p) for p in probabilities]
    if len(values) != len(labels):
        raise ValueError(f"probabilities has {len(values)} entries and labels {len(labels)}")
    ax = _axes(ax, height=0.55 + 0.27 * (len(values) + rest))
    colours = [ORANGE if i == chosen else BLUE for i in range(len(values))]
    ax.barh(range(len(values)), values, color=colours, height=0.72)
    names = list(labels)
    if rest:
        others = max(1 - math.fsum(values), 0.0)
        ax.barh(len(values), others, facecolor="none", edgecolor=MUTED, hatch="////", height=0.72)
        values, names = [*values, others], [*names, "all others"]
    for y, value in enumerate(values):
        ax.text(value, y, f" {value:.1%}", va="center", color=MUTED, fontsize=9)
    _token_ticks(ax.yaxis, names)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.12 * max(values))
    ax.xaxis.set_visible(False)
    ax.spines["bottom"].set_visible(False)
    return ax


def plot_temperature(logits, labels: list[str], temperatures=(0.1, 1.0, 5.0), ax=None) -> Axes:
    """The probabilities of the same scores at several temperatures, as bars side by side.

    logits: shape (tokens,), with a label each. Raises ValueError where the numbers of logits and
    labels differ, or for a temperature that is not a finite number above 0.
    """
    logits = torch.as_tensor(logits, dtype=torch.float32).detach().cpu()
    if logits.ndim != 1 or len(logits) != len(labels):
        raise ValueError(
            f"logits has the shape {tuple(logits.shape)} and labels {len(labels)} entries: "
            "pass one logit a label"
        )
    if not temperatures:
        raise ValueError("temperatures is empty: pass at least one")
    ax = _axes(ax, width=8, height=3.4)
    width = 0.8 / len(temperatures)
    for i, temperature in enumerate(temperatures):
        probabilities = processors.temperature(logits[None], temperature)[0].softmax(-1)
        at = [x + (i - (len(temperatures) - 1) / 2) * width for x in range(len(labels))]
        colour = SERIES[i % len(SERIES)]
        ax.bar(at, probabilities.tolist(), width=width, label=f"T = {temperature:g}", color=colour)
    _token_ticks(ax.xaxis, labels)
    ax.set_ylabel("probability")
    ax.legend(frameon=False)
    return ax


def plot_tokens(labels: list[str], token_ids=None, *, ax=None) -> Axes:
    """A text as a strip of coloured boxes, one a token, with the ids below where they are given."""
    ids = None if token_ids is None else [int(i) for i in token_ids]
    if ids is not None and len(ids) != len(labels):
        raise ValueError(f"token_ids has {len(ids)} entries and labels {len(labels)}")
    widths = [len(label) + 2 for label in labels]
    ax = _axes(ax, width=max(0.16 * sum(widths), 2), height=0.8)
    left = 0
    for n, (label, width) in enumerate(zip(labels, widths, strict=True)):
        ax.barh(0, width, left=left, color=SERIES[n % len(SERIES)], alpha=0.3, edgecolor="white")
        style = {"ha": "center", "va": "center", "parse_math": False}
        at = left + width / 2
        ax.text(at, 0.12 if ids else 0, _short(label, len(label)), fontsize=12, color=INK, **style)
        if ids:
            ax.text(at, -0.2, str(ids[n]), fontsize=9, color=MUTED, **style)
        left += width
    ax.set_xlim(0, left)
    ax.axis("off")
    return ax


def plot_surprisal(surprisals: dict[str, list[float]], labels: list[str], *, ax=None) -> Axes:
    """Surprisal token by token, in bits: a line for each named list in `surprisals`.

    labels: the tokens along the axis; a list may be shorter than they are, none longer.
    """
    longest = max(map(len, surprisals.values()), default=0)
    if longest > len(labels):
        raise ValueError(f"surprisals has {longest} values in a list, for {len(labels)} labels")
    ax = _axes(ax, width=max(0.78 * len(labels), 5), height=3)
    for i, (name, bits) in enumerate(surprisals.items()):
        style = {"color": SERIES[i % len(SERIES)], "marker": "osD^v"[i % 5], "markersize": 5}
        ax.plot(range(len(bits)), bits, label=name, linewidth=1.6, **style)
    _token_ticks(ax.xaxis, labels)
    ax.set_ylabel("surprisal, bits")
    ax.set_ylim(bottom=0)
    if len(surprisals) > 1:
        ax.legend(frameon=False)
    return ax


def plot_steps(run: Trace, *, sequence: int = 0, top_k: int = 5, ax=None) -> Axes:
    """A generation as a board: a column a step, the likeliest tokens from the top down.

    The darker a cell, the likelier the token was under the model; the chosen one has a frame. A
    choice that was not among the `top_k` stands in a row of its own at the bottom.
    """
    steps = run.steps[sequence]
    outside = any(step.rank > top_k for step in steps)
    rows = top_k + outside
    ax = _axes(ax, width=max(1.05 * len(steps) + 0.6, 4), height=0.62 * rows + 0.5)
    for x, step in enumerate(steps):
        shown = step.candidates[:top_k]
        chosen = next(c for c in step.candidates if c.token_id == step.token_id)
        cells = list(enumerate(shown)) + ([] if chosen in shown else [(top_k, chosen)])
        for y, candidate in cells:
            p = math.exp(candidate.log_prob)
            picked = candidate is chosen
            ax.add_patch(
                plt.Rectangle(
                    (x - 0.46, y - 0.44),
                    0.92,
                    0.88,
                    facecolor=PROBABILITY(p),
                    edgecolor=ORANGE if picked else FAINT,
                    linewidth=2.6 if picked else 0.8,
                    zorder=3 if picked else 2,
                )
            )
            ink = "white" if p > 0.7 else INK
            label = _short(run.labels[candidate.token_id])
            size = 9.5 if len(label) <= 9 else 8
            style = {"ha": "center", "va": "center", "color": ink, "zorder": 4}
            ax.text(x, y - 0.12, label, fontsize=size, parse_math=False, **style)
            ax.text(x, y + 0.24, f"{p:.1%}" if p >= 0.001 else "<0.1%", fontsize=7.5, **style)
    ax.set_xlim(-0.6, len(steps) - 0.4)
    ax.set_ylim(rows - 0.5, -0.55)
    ax.set_xticks(range(len(steps)), [str(t) for t in range(1, len(steps) + 1)])
    names = [str(k) for k in range(1, top_k + 1)] + ["below"] * outside
    ax.set_yticks(range(rows), names)
    ax.set_xlabel("step")
    ax.set_ylabel("rank")
    _no_spines(ax)
    ax.tick_params(length=0)
    return ax


def plot_sampler(run: Trace, step: int = 1, *, sequence: int = 0, top_k: int = 12, ax=None) -> Axes:
    """One step's probabilities before and after the processors, as pairs of bars.

    step: from 1. A token that a processor ruled out keeps its bar before, and is struck out. The
    last pair holds all other tokens, so each kind of bar adds up to 1 over the vocabulary.
    """
    steps = run.steps[sequence]
    if not 1 <= step <= len(steps):
        raise ValueError(f"step={step!r}: the sequence has steps 1 to {len(steps)}")
    record = steps[step - 1]
    shown = record.candidates[:top_k]
    before = [math.exp(c.log_prob) for c in shown]
    after = [c.processed_probability for c in shown]
    labels = [run.labels[c.token_id] for c in shown] + ["all others"]
    ax = _axes(ax, height=0.7 + 0.36 * len(labels))
    before.append(max(1 - math.fsum(before), 0.0))
    after.append(max(1 - math.fsum(after), 0.0))
    rows = range(len(labels))
    ax.barh([y - 0.2 for y in rows], before, height=0.36, color=FAINT)
    colours = [ORANGE if c.token_id == record.token_id else BLUE for c in shown] + [BLUE]
    ax.barh([y + 0.2 for y in rows], after, height=0.36, color=colours)
    for y, (p, q) in enumerate(zip(before, after, strict=True)):
        cut = y < len(shown) and shown[y].score == -math.inf
        ax.text(p, y - 0.2, f" {p:.1%}", va="center", color=MUTED, fontsize=8)
        ax.text(q, y + 0.2, " cut" if cut else f" {q:.1%}", va="center", color=INK, fontsize=8)
    _token_ticks(ax.yaxis, labels)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.12 * max(before + after))
    ax.xaxis.set_visible(False)
    ax.spines["bottom"].set_visible(False)
    swatches = [plt.Rectangle((0, 0), 1, 1, color=c) for c in (FAINT, BLUE, ORANGE)]
    ax.legend(swatches, ["before", "after", "chosen"], frameon=False, loc="center right")
    return ax


def plot_rank_curve(
    logits,
    *,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    ax=None,
) -> Axes:
    """Probability against rank, both logarithmic, and how far each cut-off reaches.

    logits: shape (vocabulary,). A cut-off that keeps everything is not drawn. Top-k, top-p and
    min-p keep all ranks left of their line; typical keeps the dotted ranks, which may leave out
    the likeliest.
    """
    scores = torch.as_tensor(logits, dtype=torch.float32).detach().cpu()[None]
    probabilities, order = scores[0].softmax(-1).sort(descending=True)
    ranks = torch.arange(1, len(probabilities) + 1)
    ax = _axes(ax, width=7.5, height=3.8)
    ax.loglog(ranks, probabilities, color=INK, linewidth=1.6)
    settings = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    for i, (name, value) in enumerate(settings.items()):
        if value == processors.DEFAULTS[name]:
            continue
        kept = int((getattr(processors, name)(scores, value) > -math.inf).sum())
        style = {"color": SERIES[i], "linestyle": ("-", "--", "-.")[i], "linewidth": 1.8}
        ax.axvline(kept + 0.5, label=f"{name} = {value:g} keeps {kept:,}", **style)
    if typical_p != processors.DEFAULTS["typical_p"]:
        kept = (processors.typical_p(scores, typical_p)[0] > -math.inf)[order]
        label = f"typical_p = {typical_p:g} keeps {int(kept.sum()):,}"
        style = {"color": RED, "marker": "o", "linestyle": "none", "markersize": 4}
        ax.plot(ranks[kept], probabilities[kept], label=label, **style)
    ax.set_xlabel("rank")
    ax.set_ylabel("probability")
    ax.set_ylim(bottom=1e-8)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, loc="upper right")
    return ax


def plot_beam_tree(run: Trace, *, prompt: int = 0, max_steps: int | None = None, ax=None) -> Axes:
    """The history of a beam search as a tree that grows to the right, a column a step.

    A filled blue node went on, a white one was pruned, a green square ended and was kept as a
    finished hypothesis, a white square ended and was discarded. Each bears its token and the
    running sum of scores, a finished one its final score; beyond twelve steps only those that went
    on bear a token. The best hypothesis has the thick line.
    Raises ValueError for a trace without beams.
    """
    if run.beams is None:
        raise ValueError("run has no beams: make it with lv.generate(…, num_beams=2 or more)")
    steps = run.beams[prompt][:max_steps]
    widest = max(len(step.candidates) for step in steps)
    height = 0.8 + 0.42 * widest
    ax = _axes(ax, width=2.0 + 1.55 * len(steps), height=height)
    best = run.beam_paths[prompt * len(run.beam_paths) // len(run.beams)]
    ax.text(-0.12, 0, "start", ha="right", va="center", color=MUTED, fontsize=9)
    few = len(steps) <= 12  # a long search would drown in labels: only tokens that went on get one
    root = (0.0, 0.0)
    parents = {}  # running hypothesis → the end of its node's label
    lines, nodes = {"best": [], "alive": [], "dead": []}, {}
    for x, step in enumerate(steps, start=1):
        next_parents = {}
        for y, c in enumerate(step.candidates):
            on_path = x <= len(best) and best[x - 1] == y
            alive = c.fate in ("running", "finished")
            kind = "best" if on_path else "alive" if alive else "dead"
            lines[kind].append([parents.get(c.beam, root), (x - 0.08, y)])
            nodes.setdefault((c.fate, on_path), []).append((x, y))
            label = _short(run.labels[c.token_id], 10)
            if few or c.fate == "finished":
                score = c.sum_score if c.final_score is None else c.final_score
                label += f"\n{score:.2f}"
            if few or alive:
                style = {"color": INK if alive else MUTED, "fontsize": 7.5, "zorder": 4}
                ax.text(x + 0.09, y, label, va="center", parse_math=False, **style)
            if c.next_beam is not None:
                next_parents[c.next_beam] = (x + 0.55, y)
        parents = next_parents
    looks = {"dead": (FAINT, 0.8), "alive": (BLUE, 1.1), "best": (ORANGE, 2.8)}
    for z, (kind, (colour, width)) in enumerate(looks.items()):
        ax.add_collection(LineCollection(lines[kind], colors=colour, linewidths=width, zorder=z))
    for (fate, on_path), places in nodes.items():
        ax.scatter(
            *zip(*places, strict=True),
            s=46,
            marker="s" if fate in ("finished", "discarded") else "o",
            facecolor={"running": BLUE, "finished": GREEN}.get(fate, "white"),
            edgecolor=ORANGE if on_path else MUTED,
            linewidth=1.8 if on_path else 0.8,
            zorder=3,
        )
    ax.set_xlim(-0.7, len(steps) + 0.75)
    ax.set_ylim(widest - 0.4, -0.6)
    ax.set_xticks(range(1, len(steps) + 1), [f"step {t}" for t in range(1, len(steps) + 1)])
    ax.yaxis.set_visible(False)
    _no_spines(ax)
    handles = [
        plt.Line2D([], [], marker=m, linestyle="none", markerfacecolor=f, markeredgecolor=MUTED)
        for m, f in (("o", BLUE), ("o", "white"), ("s", GREEN), ("s", "white"))
    ]
    ax.legend(
        handles,
        ["goes on", "pruned", "finished", "discarded"],
        frameon=False, ncols=4, loc="upper left", bbox_to_anchor=(0, -0.3 / height), fontsize=9,
    )  # fmt: skip
    return ax


def plot_attention_overview(
    weights, labels: list[str], *, layer: int = 0, head: int = 0, ax=None
) -> Axes:
    """All attention maps of a model as small multiples, and one of them enlarged below.

    weights: shape (layers, heads, tokens, tokens), as `llmviz.attentions` gives them. A column is
        a layer, from the first at the left; a row is a head. In each map a row is a query and a
        column a key.
    layer, head: the one to enlarge, counted from 0 as in `weights`, framed in the overview.

    The darker, the more weight, on a scale of square roots, so that small weights are seen. Where
    a map has more tokens than dots, a dot shows the largest weight in it.
    """
    weights = torch.as_tensor(weights).detach().float().cpu()
    _check_attention(weights, labels, 4, "(layers, heads, tokens, tokens)")
    layers, heads, tokens, _ = weights.shape
    for name, value, count in (("layer", layer, layers), ("head", head, heads)):
        if not 0 <= value < count:
            raise ValueError(f"{name}={value!r}: there are numbers 0 to {count - 1}")
    ax = _axes(ax, width=10, height=max(10 * heads / layers, 1.2))
    dots = min(tokens, max(1440 // layers - 4, 8))
    small = torch.nn.functional.adaptive_max_pool2d(weights, dots)
    gap = max(dots // 8, 1)
    padded = torch.nn.functional.pad(_past(small), (0, gap, 0, gap), value=math.nan)
    mosaic = padded.permute(1, 2, 0, 3).reshape(heads * (dots + gap), layers * (dots + gap))
    extent = (-0.5, layers - 0.5, heads - 0.5, -0.5)
    ax.imshow(mosaic, cmap=_attention_colours(), norm=ROOTS, extent=extent, aspect="auto",
              interpolation="nearest")  # fmt: skip
    share = gap / (dots + gap)
    frame = {"facecolor": "none", "edgecolor": ORANGE, "linewidth": 2}
    ax.add_patch(plt.Rectangle((layer - 0.5 - share / 2, head - 0.5 - share / 2), 1, 1, **frame))
    for axis, count in ((ax.xaxis, layers), (ax.yaxis, heads)):
        axis.set_ticks(range(0, count, 1 if count <= 32 else 4))
    ax.set_xlabel("layer")
    ax.set_ylabel("head")
    _no_spines(ax)
    size = min(2.2 + 0.2 * tokens, 6.5)
    width, height = ax.figure.get_size_inches() * ax.get_position().size
    below = ax.inset_axes((0.16, -(size + 0.95) / height, size / width, size / height))
    plot_attention(weights[layer, head], labels, ax=below)
    below.set_title(f"layer {layer}, head {head}", fontsize=10, color=INK, loc="left")
    for spine in below.spines.values():
        spine.set(visible=True, color=ORANGE, linewidth=2)
    return ax


def plot_attention(weights, labels: list[str], *, ax=None) -> Axes:
    """One head's attention: a row is a query token, a column a key that it looks at.

    weights: shape (tokens, tokens); a row adds up to 1. Shades are on a scale of square roots.
    """
    weights = torch.as_tensor(weights).detach().float().cpu()
    _check_attention(weights, labels, 2, "(tokens, tokens)")
    tokens = len(labels)
    side = min(1.2 + 0.28 * tokens, 7)
    ax = _axes(ax, width=side, height=side)
    # A dot of the picture is never less than a token, however many there are.
    ax.imshow(_past(weights), cmap=_attention_colours(), norm=ROOTS, interpolation="nearest")
    every = math.ceil(tokens / 40)
    for axis in (ax.xaxis, ax.yaxis):
        _token_ticks(axis, labels, every)
    ax.tick_params(axis="x", labelrotation=90)
    ax.set_xlabel("key: the token looked at")
    ax.set_ylabel("query: the token that looks")
    _no_spines(ax)
    return ax


def plot_ranks(ranks: dict[str, list[int]], *, ax=None) -> Axes:
    """A token's rank behind each layer, 1 on top, on a logarithmic scale: a line for each list.

    ranks: by name, a list of one rank a layer, from layer 0, the embedding; such as
        `logit_lens(…, position=-1, target=" Paris").target_rank`.
    """
    ax = _axes(ax, width=8, height=3.4)
    for i, (name, values) in enumerate(ranks.items()):
        style = {"color": SERIES[i % len(SERIES)], "marker": "osD^v"[i % 5], "markersize": 4}
        ax.plot(range(len(values)), list(values), label=_short(name, 30), linewidth=1.6, **style)
    ax.locator_params(axis="x", integer=True)
    ax.set_yscale("log")
    ax.set_ylim(2 * max((max(values) for values in ranks.values()), default=1), 0.7)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel("layer")
    ax.set_ylabel("rank")
    if len(ranks) > 1:
        # Beside the lines, which may run anywhere.
        legend = ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        for text in legend.get_texts():
            text.set_parse_math(False)
    return ax


def plot_similarity(hidden, *, ax=None) -> Axes:
    """How much the hidden states of each two layers point the same way: their cosine, averaged
    over the tokens.

    hidden: shape (layers + 1, tokens, width), as `llmviz.hidden_states` gives them.
    """
    hidden = torch.as_tensor(hidden).detach().float().cpu()
    _check_hidden(hidden)
    unit = torch.nn.functional.normalize(hidden, dim=-1)
    cosines = torch.einsum("itw,jtw->ij", unit, unit) / hidden.shape[1]
    ax = _axes(ax, width=5.6, height=4.8)
    # Cosines run from -1 to 1; white is 0, where nothing is shared.
    image = ax.imshow(cosines, cmap=COSINE, vmin=-1, vmax=1, origin="lower")
    bar = ax.figure.colorbar(image, ax=ax, label="cosine", shrink=0.8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, length=0)
    bar.ax.yaxis.label.set_color(MUTED)
    ax.set_xlabel("layer")
    ax.set_ylabel("layer")
    _no_spines(ax)
    return ax


def plot_norms(hidden, labels: list[str], *, ax=None) -> Axes:
    """The length of each token's hidden state behind each layer, on a logarithmic scale.

    hidden: shape (layers + 1, tokens, width), as `llmviz.hidden_states` gives them, which have
        been through the final norm at the last layer. The token with the longest one is singled
        out, and named.
    """
    hidden = torch.as_tensor(hidden).detach().float().cpu()
    _check_hidden(hidden)
    if hidden.shape[1] != len(labels):
        raise ValueError(f"hidden has {hidden.shape[1]} tokens and labels {len(labels)}")
    norms = hidden.norm(dim=-1)
    longest = int(norms.amax(0).argmax())
    ax = _axes(ax, width=8, height=3.6)
    for token in range(len(labels)):
        style = {"color": FAINT, "linewidth": 1}
        if token == longest:
            style = {"color": ORANGE, "linewidth": 2.4, "zorder": 3}
        ax.plot(norms[:, token].tolist(), **style)
    peak = int(norms[:, longest].argmax())
    ax.annotate(
        f"{_short(labels[longest])} (token {longest})", (peak, norms[peak, longest].item()),
        xytext=(6, 4), textcoords="offset points", color=RED, fontsize=9, parse_math=False,
    )  # fmt: skip
    ax.set_yscale("log")
    ax.set_xlabel("layer")
    ax.set_ylabel("length (L2 norm)")
    return ax


def _check_attention(weights, labels: list[str], dimensions: int, shape: str) -> None:
    if weights.ndim != dimensions or weights.shape[-2:] != (len(labels), len(labels)):
        raise ValueError(
            f"weights has the shape {tuple(weights.shape)}, for {len(labels)} labels: pass {shape}"
        )


def _check_hidden(hidden) -> None:
    if hidden.ndim != 3:
        raise ValueError(
            f"hidden has the shape {tuple(hidden.shape)}: pass (layers + 1, tokens, width)"
        )


def _past(weights: torch.Tensor) -> torch.Tensor:
    """The weights without those of later tokens, which are 0 by construction."""
    size = weights.shape[-1]
    later = torch.ones(size, size, dtype=torch.bool).triu(1)
    return weights.masked_fill(later, math.nan)


def _attention_colours():
    return PROBABILITY.with_extremes(bad="#F3F4F6")


def _no_spines(ax: Axes) -> None:
    for spine in ax.spines.values():
        spine.set_visible(False)


def show(ax: Axes, alt: str, title: str | None = None) -> None:
    """Show the figure of `ax` in a notebook, and close it.

    alt: what the figure shows, in words. It is stored beside the picture, for readers and tools
        that cannot see it, and compared by the notebook tests, which cannot see it either.
    title: a sentence that says what to see.
    """
    from io import BytesIO

    from IPython.display import display

    if title:
        ax.set_title(title, loc="left", fontsize=11.5, color=INK, pad=10, parse_math=False)
    figure, png = ax.figure, BytesIO()
    figure.savefig(png, format="png", dpi=144, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    png = png.getvalue()
    # The width stands in a PNG's bytes 16 to 19. Shown at 80 dots an inch, so sharp on any screen.
    size = {"width": int.from_bytes(png[16:20], "big") * 80 // 144}
    bundle = {"image/png": png, "text/plain": alt}
    display(bundle, raw=True, metadata={"image/png": size})


def _axes(ax: Axes | None, width: float = 7.0, height: float = 3.5) -> Axes:
    if ax is None:
        ax = plt.subplots(figsize=(width, height))[1]
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)
    ax.tick_params(which="both", colors=MUTED, length=0)
    ax.xaxis.label.set_color(MUTED)
    ax.yaxis.label.set_color(MUTED)
    return ax


def _token_ticks(axis, labels: list[str], every: int = 1) -> None:
    """Token labels as ticks, at integer positions and without mathematics."""
    axis.set_ticks(range(0, len(labels), every), [_short(label) for label in labels[::every]])
    for text in axis.get_ticklabels():
        text.set_parse_math(False)
        text.set_color(INK)


def _short(label: str, most: int = 12) -> str:
    """The label, cut to `most` characters, and with the code point of any the font has not."""
    drawn = (c if ord(c) in _characters() else f"⟨U+{ord(c):04X}⟩" for c in clipped(label, most))
    return "".join(drawn)


@cache
def _characters() -> set[int]:
    """What matplotlib's font can draw; of anything else it draws a box, and prints a warning."""
    return set(
        font_manager.get_font(font_manager.findfont(font_manager.FontProperties())).get_charmap()
    )

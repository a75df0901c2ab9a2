"""Figures with matplotlib, of numbers and token labels or of a trace.

Every `plot_` function draws on the Axes `ax`, or on a figure of its own where that is None, and
returns the Axes; `show` puts its figure into a notebook. All arguments are checked first: whoever
gets an error gets no figure. Tokens stand at integer positions, since two tokens can look alike,
and no text is read as mathematics: a token may well be `$_$`.
"""

from ..colours import BLUE, FAINT, GREEN, INK, MUTED, ORANGE, RED, SERIES
from .axes import PROBABILITY, drawable, new_axes, show, token_ticks
from .beams import plot_beam_tree
from .generation import (
    plot_probabilities,
    plot_rank_curve,
    plot_sampler,
    plot_steps,
    plot_surprisal,
    plot_temperature,
    plot_tokens,
)
from .inside import (
    plot_attention,
    plot_attention_overview,
    plot_norms,
    plot_ranks,
    plot_similarity,
)

__all__ = [
    "BLUE", "FAINT", "GREEN", "INK", "MUTED", "ORANGE", "PROBABILITY", "RED", "SERIES", "drawable",
    "new_axes", "plot_attention", "plot_attention_overview", "plot_beam_tree", "plot_norms",
    "plot_probabilities", "plot_rank_curve", "plot_ranks", "plot_sampler", "plot_similarity",
    "plot_steps", "plot_surprisal", "plot_temperature", "plot_tokens", "show", "token_ticks",
]  # fmt: skip

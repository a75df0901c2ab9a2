"""The processors in a row: what each makes of one token's score, and where it falls out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import ipywidgets
from torch import Tensor

from .. import processors
from ..colours import BLUE, FAINT
from ..formats import fixed, given
from ..html import escaped
from ..models import check_model
from ..tokens import token_id_of, token_label, token_labels
from .base import bar, card, of_state, percent, table
from .controls import PENALTIES, SAMPLING, as_percent, written
from .position import Position, PositionExplorer

_CHOICE = 30  # tokens in the list; any other can be typed
_STYLE = {"description_width": "150px"}


@dataclass(frozen=True)
class Stage:
    """One token's figures after a processor."""

    name: str  # such as "top_p=0.9"
    score: float  # −inf once it is ruled out
    probability: float
    rank: int | None  # None once it is ruled out
    left: int  # how many tokens of the vocabulary are still possible
    words: str  # what the processor did to it, and why


@dataclass(frozen=True, eq=False)
class _Chain:
    """A position, what the processors make of it in turn, and one token's way through them."""

    position: Position
    on: dict  # the settings that are switched on
    scores: list[tuple[str, Tensor]]  # after each processor, from the logits on
    token_id: int
    typed: int | None  # the last token that is not among the most likely ones
    stages: list[Stage]


class ProcessorChain(PositionExplorer):
    """One token's score through every active processor, in transformers' order.

    prompt, continuation: as in SamplerBench; the continuation counts as generated.
    token: its text, such as " dog", or its id; by default the most likely token that falls out, or
        else the most likely.
    add_special_tokens: as in SamplerBench.
    settings: those of `processors.DEFAULTS` to begin with; one that has no slider stays.
    Raises TypeError or ValueError for an argument out of bounds.
    """

    token_id, stages = of_state("token_id"), of_state("stages")

    def __init__(
        self,
        model,
        tokenizer,
        prompt: str,
        *,
        continuation: str = "",
        token: str | int | None = None,
        add_special_tokens: bool = True,
        **settings,
    ):
        check_model(model)
        if token is not None:
            token = token_id_of(tokenizer, token, model.config.get_text_config().vocab_size)
        self._first = token
        columns = [(*PENALTIES, "no_repeat_ngram_size"), SAMPLING]
        super().__init__(
            model, tokenizer, prompt, continuation, columns, settings, add_special_tokens
        )
        # Not a Dropdown: JupyterLab keeps the arrow keys up and down for itself.
        self.token_list = ipywidgets.SelectionSlider(
            options=[""], description="token", tooltip="The most likely tokens under the model",
            style=_STYLE, layout={"width": "480px"},
        )  # fmt: skip
        self.token_box = ipywidgets.Text(
            description="or type one", placeholder="such as ␣dog", continuous_update=False,
            style={"description_width": "90px"}, layout={"width": "315px"},
        )  # fmt: skip
        self.token_list.observe(self.reacts(self._from_list), "value")
        self.token_box.observe(self.reacts(self._from_box), "value")
        choice = ipywidgets.HBox(
            [self.token_list, self.token_box], layout={"flex_flow": "row wrap"}
        )
        self.start(choice)

    # The state

    def begin(self, position: Position, on: dict) -> _Chain:
        """The scores after each processor, from the logits on."""
        stages = processors.stages(position.logits, **self.arguments(position, on))
        scores = [("logits", position.logits), *stages]
        if not scores[-1][1].max().isfinite():
            self.process(position, on)  # raises, and says why
        token_id = self._first if self._state is None else self._state.token_id
        if token_id is None:
            top, last = _top(position), scores[-1][1][0]
            token_id = next((i for i in top if last[i] == -math.inf), top[0])
        typed = None if self._state is None else self._state.typed
        return self._following(_Chain(position, on, scores, token_id, typed, []), token_id)

    def _following(self, chain: _Chain, token_id: int) -> _Chain:
        """`chain` with the way of this token; one that was typed stays in the list until the next
        is, so that nothing moves under the slider."""
        typed = chain.typed if token_id in _top(chain.position) else token_id
        return replace(chain, token_id=token_id, typed=typed, stages=_stages(chain, token_id))

    def redraw(self) -> None:
        super().redraw()
        self._list()

    def settle(self) -> None:
        super().settle()
        self._list()

    def _list(self) -> None:
        """The tokens that the slider offers, and which of them is chosen."""
        chain, top = self.state, _top(self.position)
        ids = top if chain.typed is None or chain.typed in top else [chain.typed, *top]
        p = chain.position.logits[0].softmax(-1)
        labels = token_labels(self.tokenizer, ids)
        ranks = [f"{top.index(i) + 1}." if i in top else "typed:" for i in ids]
        options = [
            (f"{rank} {label}  {percent(p[i].item())}", i)
            for rank, label, i in zip(ranks, labels, ids, strict=True)
        ]
        with self._quietly():
            if list(self.token_list.options) != options:
                self.token_list.options = options
            self.token_list.value = chain.token_id

    def _from_list(self) -> None:
        self._state = self._following(self.state, self.token_list.value)

    def _from_box(self) -> None:
        if self.token_box.value:
            self._choose(self.token_box.value)
            self.token_box.value = ""  # ready for the next; what is wrong stays, to be mended

    def _choose(self, token: str | int) -> None:
        chain = self.state
        token_id = token_id_of(self.tokenizer, token, chain.position.logits.shape[-1])
        self._state = self._following(chain, token_id)

    @property
    def label(self) -> str:
        return f"“{token_label(self.tokenizer, self.token_id)}”"

    @property
    def verdict(self) -> str:
        """Where the token fell out, or what became of it."""
        stages = self.stages
        out = next((s for s in stages if s.rank is None), None)
        if out:
            return f"{self.label} falls out at {out.name}: {out.words}."
        first, last = stages[0], stages[-1]
        return (
            f"{self.label} stays: {percent(first.probability)} becomes {percent(last.probability)}."
        )

    # Its views

    def picture(self) -> str:
        stages = self.stages
        scale = max(s.probability for s in stages) or 1.0
        most = math.log(self.position.logits.shape[-1])
        fell = next((s for s in stages if s.rank is None), None)
        rows = []
        for s in stages:
            out, words = s.rank is None, escaped(s.words)
            if s is fell:
                words = f"<b>✗ out: {words}</b>"
            rows.append(
                [
                    escaped(s.name),
                    "−∞" if out else fixed(s.score),
                    "out" if out else escaped(percent(s.probability)),
                    f'<div style="width:110px">{bar(s.probability / scale, BLUE, 110)}</div>',
                    "–" if out else f"{s.rank:,}",
                    f"{s.left:,}",
                    f'<div style="width:60px">{bar(math.log(s.left) / most, FAINT, 60)}</div>',
                    f'<div style="white-space:normal;width:300px">{words}</div>',
                ]
            )
        head = ["", "score", "probability", "", "rank", "tokens left", "log scale", "what it did"]
        return card(
            self.position.html,
            f'<div style="margin:6px 0;font-size:14px"><b>▸ {escaped(self.verdict)}</b></div>',
            table(head, rows, "lrrlrrll"),
        )

    def as_text(self) -> str:
        settings = written(self.state.on) or "everything off"
        lines = [f"ProcessorChain of {self.position}: {settings}", self.verdict]
        for s in self.stages:
            figures = f"score {fixed(s.score)}, probability {percent(s.probability)}, rank {s.rank}"
            lines.append(f"{s.name}: {figures if s.rank else 'out'}, {s.left} left; {s.words}")
        return "\n".join(lines)

    def figure(self, ax=None):
        """The token's probability after each processor, as bars, with its rank and what is left."""
        from .. import plots

        stages = self.stages
        ax = plots.new_axes(ax, width=8, height=0.6 + 0.42 * len(stages))
        ax.barh(range(len(stages)), [s.probability for s in stages], color=plots.BLUE, height=0.6)
        for y, s in enumerate(stages):
            words = f" {percent(s.probability)}, rank {s.rank:,}" if s.rank else " out"
            words += f" · {s.left:,} tokens left"
            ax.text(s.probability, y, words, va="center", color=plots.INK, fontsize=9)
        ax.set_yticks(range(len(stages)), [plots.drawable(s.name, 40) for s in stages])
        for text in ax.get_yticklabels():
            text.set(parse_math=False, color=plots.INK)
        ax.invert_yaxis()
        ax.set_xlim(0, 1.6 * max(s.probability for s in stages) or 1)
        ax.xaxis.set_visible(False)
        ax.spines["bottom"].set_visible(False)
        return ax


def _top(position: Position) -> list[int]:
    """The most likely tokens, which the list offers."""
    logits = position.logits[0]
    return logits.topk(min(_CHOICE, len(logits))).indices.tolist()


def _stages(chain: _Chain, i: int) -> list[Stage]:
    """The way of token `i`, from the logits to the last active processor."""
    text, stages, before = chain.position.input_ids[0].tolist(), [], None
    generated = text[chain.position.prompt_length :]
    for name, scores in chain.scores:
        after, words = scores[0], "what the model says"
        if before is not None:
            value = chain.on[name]
            words = reason(name, value, before, after, i, text.count(i), generated.count(i))
            name = written({name: value})
        higher = int((after > after[i]).sum())
        rank = None if after[i] == -math.inf else 1 + higher
        probability = after.softmax(-1)[i].item()
        left = int((after > -math.inf).sum())
        stages.append(Stage(name, after[i].item(), probability, rank, left, words))
        before = after
    return stages


def reason(
    name: str, value, before: Tensor, after: Tensor, i: int, in_text: int, generated: int
) -> str:
    """What the processor `name` did to token `i`, in words.

    before, after: all scores, shape (vocabulary,). in_text, generated: how often the token stands
    in the whole text, and in what was generated.
    """
    if before[i] == -math.inf:
        return "out already"
    cut = bool(after[i] == -math.inf)
    p, log_probs = before.softmax(-1), before.log_softmax(-1)
    entropy = -(p * log_probs).nansum().item()
    score, number = fixed(before[i].item()), value
    if isinstance(value, (int, float)):
        value, share = given(value), as_percent(value)
    match name:
        case "repetition_penalty":
            sign = "×" if before[i] < 0 else "÷"
            return f"in the text: {score} {sign} {value}" if in_text else "not in the text"
        case "presence_penalty":
            return f"generated: − {value}" if generated else "not generated so far"
        case "frequency_penalty":
            times = f"generated {generated}×: − {generated} · {value}"
            return times if generated else "not generated so far"
        case "no_repeat_ngram_size":
            return f"{'would' if cut else 'does not'} repeat {value} tokens of the text"
        case "temperature":
            return f"{score} ÷ {value}"
        case "top_k":
            rank = 1 + int((before > before[i]).sum())
            return f"rank {rank:,} is {'beyond' if cut else 'within'} {value}"
        case "top_p":
            likelier = p[before > before[i]].sum()
            return f"likelier tokens hold {likelier:.1%} {'≥' if cut else '<'} {share}"
        case "min_p":
            threshold = f"{value} · {p.max():.2%}"
            return f"{p[i]:.2%} {'<' if cut else '≥'} {threshold}, of the likeliest"
        case "typical_p":
            bits, expected = -log_probs[i].item() / math.log(2), entropy / math.log(2)
            return (
                f"surprisal {fixed(bits)}, entropy {fixed(expected)} bits: "
                f"{'not ' if cut else ''}among the closest that hold {share}"
            )
        case "epsilon_cutoff":
            return f"{p[i]:.3%} {'<' if cut else '≥'} {share}"
        case "eta_cutoff":
            eta = min(number, math.sqrt(number) * math.exp(-entropy))
            return f"{p[i]:.3%} {'<' if cut else '≥'} {eta:.3%}"
    # The rules: what must and must not be said.
    return f"ruled out by {name}" if cut else f"score {score} → {fixed(after[i].item())}"

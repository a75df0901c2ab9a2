"""The processors in a row: what each makes of one token's score, and where it falls out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .. import arguments
from ..colours import BLUE, FAINT
from ..formats import fixed, given
from ..html import escaped
from ..models import check_model, vocab_size
from ..tokens import token_id_of
from ..widgets.base import bar, card, percent, table
from ..widgets.controls import as_percent, written
from .position import PENALTIES, SAMPLING, Position, PositionExplorer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Unpack

    from ..settings import Settings

_CHOICE = 30  # tokens on the slider; any other can be typed


@dataclass(frozen=True)
class Stage:
    """One token's figures after a processor."""

    name: str  # such as "top_p=0.9"
    score: float  # −inf once it is ruled out
    probability: float
    rank: int | None  # None once it is ruled out
    left: int  # how many tokens of the vocabulary are still possible
    words: str  # what the processor did to it, and why


class ProcessorChain(PositionExplorer):
    """One token's score through every active processor, in transformers' order.

    prompt, continuation: as in SamplerBench; the continuation counts as generated.
    token: its text, such as " dog", or its id; by default the most likely token that falls out, or
        else the most likely.
    add_special_tokens: as in SamplerBench.
    settings: those of `processors.DEFAULTS` to begin with; one that has no slider stays.
    Raises TypeError or ValueError for an argument out of bounds.
    """

    kind, columns = "chain", ((*PENALTIES, "no_repeat_ngram_size"), SAMPLING)

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str,
        *,
        continuation: str = "",
        token: str | int | None = None,
        add_special_tokens: bool = True,
        **settings: Unpack[Settings],
    ):
        check_model(model)
        if token is not None:
            token = token_id_of(tokenizer, token, vocab_size(model))
        super().__init__(
            model, tokenizer, prompt, continuation, settings, add_special_tokens, token=token
        )

    def begin(self, position: Position, scores: Tensor, chosen: dict) -> dict:
        token_id, logits = chosen.get("token"), position.logits[0]
        if token_id is None:
            top = logits.topk(min(_CHOICE, len(logits))).indices.tolist()
            token_id = next((i for i in top if scores[0, i] == -math.inf), top[0])
        return {"token": arguments.whole("token", token_id, low=0, high=len(logits) - 1)}

    def on_type(self, content: dict) -> None:
        """Follow a token by its text."""
        size = self.position.logits.shape[-1]
        token_id = token_id_of(self.tokenizer, content.get("text"), size)
        self.chosen = {**self.chosen, "token": token_id}

    @property
    def token_id(self) -> int:
        """The token that is followed."""
        self.check_open()
        return self.chosen["token"]

    @property
    def stages(self) -> list[Stage]:
        """The token's way, from the logits to the last processor that is on."""
        at, i, on = self.position, self.token_id, self.settings
        text, stages, before = at.input_ids[0].tolist(), [], None
        generated = text[at.prompt_length :]
        for name, scores in self._stages:
            after, words = scores[0], "what the model says"
            if before is not None:
                value, times = on[name], (text.count(i), generated.count(i))
                words = reason(name, value, before, after, i, *times)
                name = written({name: value})
            rank = None if after[i] == -math.inf else 1 + int((after > after[i]).sum())
            probability = after.softmax(-1)[i].item()
            left = int((after > -math.inf).sum())
            stages.append(Stage(name, after[i].item(), probability, rank, left, words))
            before = after
        return stages

    @property
    def label(self) -> str:
        return f"“{self.labels[self.token_id]}”"

    @property
    def title(self) -> str:
        return f"ProcessorChain of {self.position}"

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
        settings = written(self.settings) or "everything off"
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

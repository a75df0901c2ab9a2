"""A generation step by step, with every branch that was tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import ipywidgets
import torch
from torch import Tensor

from .. import arguments, processors
from ..colours import BLUE, FAINT, MUTED, ORANGE
from ..decoding.guidance import unconditional
from ..decoding.prefix import Prefix, eos_token_ids
from ..decoding.search import check_draws, draw, seeded
from ..formats import fixed
from ..html import escaped, token_strip
from ..models import check_model
from ..recorder import Recorder
from ..tokens import clipped, token_labels
from ..trace import Step, Trace
from .base import Explorer, bar, card, of_state, result_of, table, token, tokens_of
from .controls import plain_settings, text_box, written

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Unpack

    from ..settings import Settings

_ROWS = 10  # the most likely tokens that a step shows, and that can be taken by a button
_ANSWER = 0.5  # seconds that a click waits for its token, so that clicks are answered in turn
_LINES = 40  # of the tree of branches, as many are shown
_DEPTH = 12  # forks above a branch that are drawn as lines


@dataclass(eq=False, repr=False, slots=True)
class Node:
    """A text that was reached: its last token, and what the model says comes next.

    `step` is None where the text ends. `random` is the state of the generator that draws what
    comes after it, so a node leads on to the same token however it was reached.
    """

    token_id: int | None  # None at the root, which is the prompt
    parent: Node | None
    step: Step | None = None
    random: Tensor | None = None
    children: dict[int, Node] = field(default_factory=dict)
    latest: Node | None = None  # the child that was visited last

    @property
    def path(self) -> list[Node]:
        """From the root's child to this node."""
        nodes, node = [], self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    @property
    def taken(self) -> Step:
        """The parent's step, with this node's token as the chosen one."""
        chosen = next(c for c in self.parent.step.candidates if c.token_id == self.token_id)
        return replace(
            self.parent.step, token_id=chosen.token_id, rank=chosen.rank, log_prob=chosen.log_prob
        )

    @property
    def log_prob(self) -> float:
        """Of all new tokens up to this one, natural, under the model."""
        return math.fsum(node.taken.log_prob for node in self.path)

    @property
    def next_token(self) -> int | None:
        """Where the branch that was left last leads, or else what the strategy chooses."""
        if self.latest is not None:
            return self.latest.token_id
        return None if self.step is None else self.step.token_id


@dataclass(frozen=True, eq=False)
class _Walk:
    """A tree of texts, and where in it one stands. The tree only ever grows."""

    prompt: str
    input_ids: Tensor  # (1, tokens), of the prompt
    root: Node
    node: Node
    labels: dict[int, str]


class Stepper(Explorer):
    """Walk through a generation: forward, back, another token instead, and on from there.

    Forward takes the token that `lv.generate` would take for the same arguments; after a step
    back it returns to where it came from. Every text that was reached stays in the tree, with what
    the model said there, and is never computed again: a new token costs one pass, over that token
    alone, or over the whole text where another branch was read last. The buttons let the model run
    in the background; `forward`, `back` and `take` do the same from code, at once.

    max_new_tokens: how deep the tree may get.
    do_sample, seed: draw the tokens that Forward takes, rather than take the most likely.
    add_special_tokens: whether the tokenizer may put a bos token in front; False for a prompt that
        a chat template wrote.
    settings: those of `processors.DEFAULTS`.
    Raises TypeError or ValueError for an argument out of bounds.
    """

    prompt, root, node = of_state("prompt"), of_state("root"), of_state("node")

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str,
        *,
        max_new_tokens: int = 40,
        do_sample: bool = False,
        seed: int = 0,
        add_special_tokens: bool = True,
        **settings: Unpack[Settings],
    ):
        check_model(model)
        self._settings = plain_settings(settings, model.config.get_text_config().vocab_size)
        check_draws(do_sample, seed)
        if seed is None:
            raise ValueError("seed=None: pass a number; a step taken again draws the same token")
        self._add_special_tokens = arguments.flag("add_special_tokens", add_special_tokens)
        self._max_new_tokens = arguments.whole("max_new_tokens", max_new_tokens)
        self._do_sample, self._seed = arguments.plain(do_sample), int(seed)
        self.model, self.tokenizer, self._eos = model, tokenizer, eos_token_ids(model)
        self._prefix: Prefix | None = None  # what the model has read; None while a thread has it
        self._take_over(self._read(prompt))
        self._make_controls()
        wrap = {"flex_flow": "row wrap", "max_width": "900px", "align_items": "center"}
        indented = {**wrap, "margin": "0 0 0 154px"}
        instead = ipywidgets.Label("go on with", layout={"margin": "2px 8px 2px 90px"})
        super().__init__(
            self.prompt_box,
            ipywidgets.HBox([self.back_button, self.forward_button, self.play], layout=indented),
            ipywidgets.HBox([self.branch_list, self.branch_button], layout=wrap),
            ipywidgets.HBox([instead, *self.candidate_buttons], layout=wrap),
        )

    def _make_controls(self) -> None:
        self.prompt_box = text_box(
            "prompt", self.prompt, "What the model reads; Enter takes it over"
        )
        self.back_button = ipywidgets.Button(
            description="Back", tooltip="One token back; nothing is forgotten"
        )
        self.forward_button = ipywidgets.Button(
            description="Forward", tooltip="On by the token marked with ▸"
        )
        self.play = ipywidgets.Play(
            min=0, max=self._max_new_tokens, interval=600, show_repeat=False,
            tooltip="Forward, again and again; the square goes back to the prompt",
        )  # fmt: skip
        self.branch_list = ipywidgets.Dropdown(
            description="branch",
            tooltip="Go to the end of a branch",
            style={"description_width": "150px"},
            layout={"width": "500px"},
        )
        # JupyterLab keeps a list's arrow keys for itself, so a button goes through it as well.
        self.branch_button = ipywidgets.Button(
            description="Next branch", tooltip="Go to the end of the next branch"
        )
        self.candidate_buttons = [ipywidgets.Button(layout={"width": "auto"}) for _ in range(_ROWS)]
        self.prompt_box.observe(self._answers(self._on_prompt), "value")
        self.back_button.on_click(self.reacts(self.back))
        self.forward_button.on_click(
            self._answers(lambda: self._go([None], by=self.forward_button))
        )
        self.play.observe(self._answers(self._on_play), "value")
        self.branch_button.on_click(self.reacts(self._on_next_branch))
        self.branch_list.observe(self.reacts(self._on_branch), "value")
        for place, button in enumerate(self.candidate_buttons):
            button.on_click(self._answers(lambda place=place: self._on_candidate(place)))

    # The tree

    def _read(self, prompt: str) -> tuple[_Walk, Prefix]:
        input_ids = tokens_of(
            self.model,
            self.tokenizer,
            prompt,
            self._max_new_tokens,
            add_special_tokens=self._add_special_tokens,
        )
        root, prefix = Node(None, None), Prefix(self.model, input_ids)
        state = seeded(self._seed).get_state() if self._do_sample else None
        labels = self._look(root, input_ids, prefix, state, {})
        return _Walk(prompt, input_ids, root, root, labels), prefix

    def _take_over(self, reading: tuple[_Walk, Prefix]) -> None:
        self._state, self._prefix = reading

    def _look(
        self, node: Node, input_ids: Tensor, prefix: Prefix, state, labels: dict[int, str]
    ) -> dict[int, str]:
        """Let the model read the text up to `node`, and keep what it says comes next. Returns
        `labels` with those of the new tokens."""
        logits = prefix.next_logits().cpu()
        prompt_length = input_ids.shape[1] - len(node.path)
        without = unconditional(self.model, self._settings, prompt_length, takes_back=True)
        scores = processors.process(
            logits,
            input_ids,
            prompt_length=prompt_length,
            max_new_tokens=self._max_new_tokens,
            unconditional_logits=without and without.logits(input_ids.to(self.model.device)).cpu(),
            eos_token_ids=self._eos,
            do_sample=self._do_sample,
            **self._settings,
        )
        chosen = scores.argmax(-1)
        if state is not None:
            generator = torch.Generator()
            generator.set_state(state)
            chosen = draw(scores.softmax(-1), generator)
            node.random = generator.get_state()
        recorder = Recorder(_ROWS)
        recorder.record(logits, scores, chosen)
        node.step = recorder.steps([1])[0][0]
        new = sorted({c.token_id for c in node.step.candidates} - labels.keys())
        return {**labels, **dict(zip(new, token_labels(self.tokenizer, new), strict=True))}

    def _on_by(self, tokens: list[int | None]) -> Generator:
        """Steps of `work` that go on by these tokens, where None is what Forward takes.

        They take the prefix along, so that no other thread reads on from it, and return what
        `_arrive` takes over. Nothing that is shown changes meanwhile.
        """
        walk, prefix, self._prefix = self.state, self._prefix, None

        def steps() -> Generator:
            node, read, labels = walk.node, prefix, walk.labels
            for done, token_id in enumerate(tokens):
                yield done, len(tokens)
                token_id = node.next_token if token_id is None else token_id
                if token_id is None:
                    break
                child = node.children.get(token_id)
                if child is None:
                    child = Node(token_id, node)
                    read, labels = self._read_on(walk, read, child, labels)
                node = child
            return node, read, labels

        return steps()

    def _read_on(
        self, walk: _Walk, prefix: Prefix | None, child: Node, labels: dict[int, str]
    ) -> tuple[Prefix | None, dict[int, str]]:
        """What the model says after `child`, which is a new text, by one pass."""
        if child.token_id in self._eos or len(child.path) >= self._max_new_tokens:
            return prefix, labels
        ids = torch.tensor([[n.token_id for n in child.path]])
        ids = torch.cat([walk.input_ids, ids], dim=-1)
        if prefix is not None and prefix.input_ids.tolist() == ids[:, :-1].tolist():
            prefix.append(ids[:, -1])
        else:  # it stands on another branch; no cache of every architecture goes back
            prefix = Prefix(self.model, ids)
        return prefix, self._look(child, ids, prefix, child.parent.random, labels)

    def _arrive(self, found: tuple[Node, Prefix | None, dict[int, str]]) -> None:
        """Put what was read into the tree, and stand there."""
        node, self._prefix, labels = found
        here = self.root
        for new in node.path:
            new.parent = here
            here = here.children.setdefault(new.token_id, new)
        self._state = replace(self.state, labels=labels)
        self._visit(here)

    def _walk(self, tokens: list[int | None]) -> None:
        """`_on_by` in the caller's thread."""
        with self._lock:
            self._end()
            steps = self._on_by(tokens)
        found = result_of(steps)
        with self._lock:
            self._arrive(found)

    def take(self, token_id: int) -> None:
        """Go on with this token, one of the step's candidates.

        Raises ValueError where the text has ended, and for any other token.
        """
        self._walk([self._candidate(token_id)])

    def _candidate(self, token_id: int | None) -> int:
        node = self.node
        if node.step is None:
            raise ValueError(f"the text ends here, {self._why_ended(node)}")
        if not arguments.is_whole(token_id) or int(token_id) not in _ids(node.step):
            raise ValueError(
                f"token_id={arguments.shown(token_id)}: it is none of the step's candidates"
            )
        return int(token_id)

    def forward(self) -> None:
        """Back on the branch that was left by `back`, or else on by what the strategy chooses."""
        self.take(self.node.next_token)

    def back(self) -> None:
        """One token back. Raises ValueError at the prompt."""
        if self.node.parent is None:
            raise ValueError("this is the prompt: there is no step to go back")
        with self._lock:
            self._end()
            self._state = replace(self.state, node=self.node.parent)

    def _why_ended(self, node: Node) -> str:
        if node.token_id in self._eos:
            return f"with the token {self._labels[node.token_id]}"
        return f"at max_new_tokens={self._max_new_tokens}"

    @property
    def _labels(self) -> dict[int, str]:
        return self.state.labels

    @property
    def trace(self) -> Trace:
        """The present branch as a record, as `lv.generate` makes it."""
        return self._trace([node.taken for node in self.node.path])

    def _trace(self, steps: list[Step]) -> Trace:
        walk = self.state
        ids = torch.tensor([[step.token_id for step in steps]], dtype=torch.long)
        sequences = torch.cat([walk.input_ids, ids], dim=-1)
        return Trace(
            [walk.prompt],
            self.tokenizer.batch_decode(sequences, skip_special_tokens=True),
            sequences,
            walk.input_ids.shape[1],
            [steps],
            walk.labels,
            {"do_sample": self._do_sample, "seed": self._seed, **self._settings},
        )

    # Its controls

    def _answers(self, function: Callable[[], None]) -> Callable:
        """`reacts`, for what begins `work`: it waits a little, so that as a rule what was asked
        for is there before the next message is read."""
        react = self.reacts(function)

        def callback(_=None):
            react()
            self.wait(_ANSWER)

        return callback

    def _go(self, tokens: list[int | None], by: ipywidgets.Widget) -> None:
        """On by these tokens, in the background; what is asked while it goes on is not heard."""
        if not self.working:
            self._candidate(self.node.next_token if tokens[0] is None else tokens[0])
            self.work("Reading", self._on_by(tokens), self._arrive, by=by)

    def _on_prompt(self) -> None:
        def steps(prompt: str) -> Generator:
            yield 0, 1
            return self._read(prompt)

        prompt = self.prompt_box.value
        self.work("Reading the prompt", steps(prompt), self._take_over, by=self.prompt_box)

    def _on_play(self) -> None:
        wanted, path = self.play.value, self.node.path
        if wanted < len(path):
            self._end()
            self._state = replace(self.state, node=path[wanted].parent)
        elif wanted > len(path) and self.node.next_token is not None:
            self._go([None] * (wanted - len(path)), by=self.play)

    def _on_branch(self) -> None:
        self._end()
        self._visit(self.branch_list.value)

    def _on_next_branch(self) -> None:
        self._end()
        leaves = [leaf for _, leaf in self.branch_list.options]
        self._visit(leaves[(leaves.index(self.branch_list.value) + 1) % len(leaves)])

    def _visit(self, node: Node) -> None:
        self._state = replace(self.state, node=node)
        for n in node.path:
            n.parent.latest = n

    def _on_candidate(self, place: int) -> None:
        self._go([self._shown()[place].token_id], by=self.candidate_buttons[place])

    def _shown(self) -> list:
        """The candidates of the present step that have a button."""
        return [] if self.node.step is None else _shown(self.node.step)

    def redraw(self) -> None:
        super().redraw()
        with self._quietly():
            self._follow()

    def settle(self) -> None:
        self.play.playing = False
        self._follow()

    def texts(self) -> list:
        return [(self.prompt_box, self.prompt)]

    def _follow(self) -> None:
        """Let the controls say where we are."""
        leaf = self.node
        while leaf.latest is not None:
            leaf = leaf.latest
        leaves = [chain[-1] for _, chain in branch_lines(self.root) if not chain[-1].children]
        self.branch_list.options = [
            (f"{n}: {self._branch_name(leaf)}", leaf) for n, leaf in enumerate(leaves, start=1)
        ]
        self.branch_list.value = leaf
        if not self.working:
            depth, nothing = len(self.node.path), self.node.next_token is None
            self.back_button.disabled, self.forward_button.disabled = depth == 0, nothing
            self.play.value, self.play.playing = depth, self.play.playing and not nothing
            self.branch_list.disabled = self.branch_button.disabled = len(leaves) < 2
        shown = self._shown()
        for place, button in enumerate(self.candidate_buttons):
            button.layout.display = "" if place < len(shown) else "none"
            if place < len(shown):
                label, p = self._labels[shown[place].token_id], math.exp(shown[place].log_prob)
                button.description = clipped(label, 14)
                button.tooltip = f"Go on with {label}, p = {p:.3f}"

    def _branch_name(self, leaf: Node) -> str:
        """Its last tokens, and its log-probability."""
        path = leaf.path
        tail = "".join(self._labels[node.token_id] for node in path[-8:])
        return f"{'…' if len(path) > 8 else ''}{tail or 'start'}  ({fixed(leaf.log_prob)})"

    def close(self) -> None:
        super().close()
        self._prefix = None

    # Its views

    def picture(self) -> str:
        node = self.node
        text = token_strip(self.trace)._repr_html_()
        if node.step is None:
            why = escaped(self._why_ended(node))
            board = f'<div style="margin:8px 0"><b>The text ends here, {why}.</b></div>'
        else:
            board = _bars(node, self._labels)
        where = f"{self._where()}; next, by {escaped(self._strategy())}:"
        lines, cut = _shown_lines(branch_lines(self.root), node)
        lines = "".join(_branch_line(line, node, self._labels) for line in lines)
        tree = (
            f'<div style="color:{MUTED};margin-top:8px">all branches{cut}; ▸ is where you are, and '
            "the number is the branch's log-probability</div>"
            f'<div style="font-family:monospace;font-size:13px;line-height:1.5;'
            f'white-space:pre-wrap;overflow-wrap:anywhere">{lines}</div>'
        )
        return card(text, f'<div style="color:{MUTED}">{where}</div>', board, tree)

    def _where(self) -> str:
        depth = len(self.node.path)
        return f"after {depth} new token{'' if depth == 1 else 's'}"

    def _strategy(self) -> str:
        how = f"sampling with seed {self._seed}" if self._do_sample else "greedy search"
        on = {k: v for k, v in self._settings.items() if v != processors.DEFAULTS[k]}
        return f"{how}, {written(on)}" if on else how

    def as_text(self) -> str:
        node, labels = self.node, self._labels
        lines = [f"Stepper of {self.prompt!r} by {self._strategy()}"]
        lines.append(f"{self._where()}, log-probability {fixed(node.log_prob)}")
        for c in self._shown():
            mark = "▸ " if c.token_id == self.node.next_token else ""
            after = "cut" if c.score == -math.inf else f"{c.processed_probability:.1%}"
            lines.append(f"{mark}{labels[c.token_id]}  {math.exp(c.log_prob):.1%} → {after}")
        if node.step is None:
            lines.append(f"the text ends here, {self._why_ended(node)}")
        for prefix, chain in branch_lines(self.root):
            tokens = "".join(("▸" * (n is node)) + _name(n, labels) for n in chain)
            end = "" if chain[-1].children else f"  {fixed(chain[-1].log_prob)}"
            lines.append(f"{prefix}{tokens}{end}")
        return "\n".join(lines)

    def figure(self, ax=None):
        """The present branch as a board, a column a step; the last one is what may come next."""
        from .. import plots

        steps = [n.taken for n in self.node.path]
        if self.node.step is not None:
            chosen = self.node.next_token
            c = next(c for c in self.node.step.candidates if c.token_id == chosen)
            steps.append(replace(self.node.step, token_id=chosen, rank=c.rank, log_prob=c.log_prob))
        return plots.plot_steps(self._trace(steps), ax=ax)


def _ids(step: Step) -> set[int]:
    return {c.token_id for c in step.candidates}


def _shown(step: Step) -> list:
    """The most likely candidates, and at the end the chosen one where it is not among them."""
    first = step.candidates[:_ROWS]
    chosen = next(c for c in step.candidates if c.token_id == step.token_id)
    return first if chosen in first else [*first[:-1], chosen]


def _name(node: Node, labels: dict[int, str]) -> str:
    return "start " if node.parent is None else labels[node.token_id]


def _bars(node: Node, labels: dict[int, str]) -> str:
    """This step's candidates; with processors at work, a second bar for what they made of it."""
    shown = _shown(node.step)
    processed = any(
        c.score == -math.inf or abs(c.processed_probability - math.exp(c.log_prob)) > 1e-6
        for c in shown
    )
    rows = []
    for c in shown:
        p, q, cut = math.exp(c.log_prob), c.processed_probability, c.score == -math.inf
        name, picked = token(clipped(labels[c.token_id], 24)), c.token_id == node.next_token
        colour = ORANGE if picked else BLUE
        bars = bar(p, FAINT) + bar(q, colour) if processed else bar(p, colour, height=12)
        after = [("cut" if cut else f"{q:.1%}")] if processed else []
        rows.append(
            [
                "▸" if picked else "",
                str(c.rank),
                f"<s>{name}</s>" if cut else f"<b>{name}</b>" if picked else name,
                f'<div style="width:240px">{bars}</div>',
                f"{p:.1%}",
                *after,
                "visited" if c.token_id in node.children else "",
            ]
        )
    others = max(1 - math.fsum(math.exp(c.log_prob) for c in shown), 0.0)
    left = max(1 - math.fsum(c.processed_probability for c in shown), 0.0)
    rest = bar(others, FAINT) + (bar(left, BLUE) if processed else "")
    after = [f"{left:.1%}"] if processed else []
    rows.append(["", "", "all others", rest, f"{others:.1%}", *after, ""])
    head = ["", "rank", "token", "", *(["before", "after"] if processed else ["probability"]), ""]
    return table(head, rows, "lrll" + ("rr" if processed else "r") + "l")


def branch_lines(root: Node) -> list[tuple[str, list[Node]]]:
    """The tree as lines: (what to draw in front, the nodes up to the next fork or end)."""
    lines, waiting = [], [(root, "", "")]
    while waiting:
        node, first, rest = waiting.pop()
        chain = [node]
        while len(chain[-1].children) == 1:
            chain += chain[-1].children.values()
        lines.append((first, chain))
        children = list(chain[-1].children.values())
        for child in reversed(children):
            last = child is children[-1]
            branch, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
            waiting.append((child, rest + branch, rest + below))
    return lines


def _shown_lines(
    lines: list[tuple[str, list[Node]]], here: Node
) -> tuple[list[tuple[str, list[Node]]], str]:
    """The lines around `here` that a page has room for, less deeply indented, and in words what
    was left out."""
    at = next(i for i, (_, chain) in enumerate(lines) if here in chain)
    first = max(min(at - _LINES // 2, len(lines) - _LINES), 0)
    shown = lines[first : first + _LINES]
    cut = f" (lines {first + 1} to {first + len(shown)} of {len(lines)})"
    words = cut if len(shown) < len(lines) else ""
    if any(len(prefix) > 3 * _DEPTH for prefix, _ in shown):
        words += " (⋯ stands for more forks above)"
        shown = [(_shortened(prefix), chain) for prefix, chain in shown]
    return shown, words


def _shortened(prefix: str) -> str:
    return prefix if len(prefix) <= 3 * _DEPTH else "⋯  " + prefix[3 - 3 * _DEPTH :]


def _branch_line(line: tuple[str, list[Node]], here: Node, labels: dict[int, str]) -> str:
    """One line of the tree as HTML; of a long one, the ends and what stands around `here`."""
    prefix, chain = line
    at = chain.index(here) if here in chain else -9
    on_path = set(map(id, here.path)) | {id(here)}
    parts, gap = [], False
    for i, node in enumerate(chain):
        if len(chain) > 16 and 5 <= i < len(chain) - 5 and abs(i - at) > 2:
            parts += [] if gap else [f'<span style="color:{MUTED}"> … </span>']
            gap = True
            continue
        gap = False
        name = escaped(clipped(_name(node, labels), 24))
        if node is here:
            style = f"font-weight:bold;background:#fde3b0;border-bottom:2px solid {ORANGE}"
            parts.append(f'<span style="{style}">▸{name}</span>')
        elif id(node) in on_path:
            parts.append(f"<b>{name}</b>")
        else:
            parts.append(f'<span style="color:{MUTED}">{name}</span>')
    end = ""
    if not chain[-1].children:
        end = f'<span style="color:{MUTED}">  {fixed(chain[-1].log_prob)}</span>'
    return f'<div><span style="color:{MUTED}">{prefix}</span>{"".join(parts)}{end}</div>'

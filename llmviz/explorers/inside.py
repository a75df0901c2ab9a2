"""Inside a model: pick a layer, a head and a token, and see what it looks at and predicts."""

from __future__ import annotations

import base64
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import arguments
from ..colours import BLUE, FAINT, MUTED
from ..html import attention_strip, escaped, quoted
from ..internals import attentions, logit_lens
from ..tables import Table
from ..tokens import clipped
from ..widgets.base import bar, card, result_of, table, token, tokens_of
from .base import Explorer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOP = 5  # predictions of the lens to list
_LAYERS = 40  # of a deeper model, only so many rows, around the chosen one
_SIDE = 380  # pixels of the enlarged map
_MOST = 64_000_000  # bytes of weights that are sent to the browser


@dataclass(frozen=True, eq=False)
class Reading:
    """A text, and what went on inside while the model read it."""

    text: str
    labels: list[str]
    weights: Tensor  # (layers, heads, tokens, tokens)
    lens: Table

    @property
    def sizes(self) -> dict[str, int]:
        layers, heads, tokens, _ = self.weights.shape
        return {"layer": layers, "head": heads, "token": tokens}

    @cached_property
    def tiles(self) -> Tensor:
        """The maps in small, as bytes: shape (layers, heads, height, width, 3)."""
        return _tiles(self.weights)

    def state(self) -> dict:
        """What the browser needs besides the weights: a pair (prediction, probability) per layer
        and token, layer 0 being the embedding."""
        best = self.lens.drop_duplicates(["layer", "position"])
        said = [[p, round(q, 9)] for p, q in zip(best.prediction, best.probability, strict=True)]
        sizes = self.sizes
        return {
            "kind": "inside", "text": self.text, "tokens": self.labels,
            "layers": sizes["layer"], "heads": sizes["head"],
            "lens": [said[i : i + sizes["token"]] for i in range(0, len(said), sizes["token"])],
        }  # fmt: skip

    def roots(self) -> bytes:
        """The square roots of the weights, 65,535 for 1, as uint16: of each map, one after the
        other, the rows up to the diagonal."""
        row, column = torch.tril_indices(*self.weights.shape[-2:])
        roots = self.weights[..., row, column].clamp(0, 1).sqrt()
        return (roots * 65535).round().numpy().astype("<u2").tobytes()


def _read(
    model, tokenizer, text: str, add_special_tokens: bool
) -> Generator[tuple[int, int], None, Reading]:
    yield 0, 2
    more = {"add_special_tokens": add_special_tokens}
    weights, labels = attentions(model, tokenizer, text, **more)
    yield 1, 2
    lens = logit_lens(model, tokenizer, text, top_k=_TOP, **more)
    for what, values in (("attention weights", weights), ("probabilities", lens["probability"])):
        if not torch.as_tensor(values).isfinite().all():
            raise ValueError(
                f"model gives {what} that are no numbers (NaN): check its weights and dtype "
                "(float16 overflows)"
            )
    return Reading(text, labels, weights, lens)


class Inside(Explorer):
    """All attention maps of a text, one enlarged; one token's look back; the lens at that token.

    text: what the model reads, twice: for its attention and for the lens. Up to some hundred
        tokens are still legible; all weights go to the browser, so a text may not have more of
        them than 32 million (SmolLM2-135M: 486 tokens).
    layer, head: counted from 0, as in `llmviz.attentions`. token: the number of the one that
        looks, −1 the last.
    add_special_tokens: whether the tokenizer may put a bos token in front; False for a text that
        a chat template wrote.
    `chosen` has the three numbers, by name; moving a slider makes no pass of the model.
    Raises TypeError or ValueError for an argument out of bounds, a text that is too long, or a
    model without attention.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        text: str,
        *,
        layer: int = 0,
        head: int = 0,
        token: int = -1,
        add_special_tokens: bool = True,
    ):
        self.model, self.tokenizer = model, tokenizer
        self._add_special_tokens = arguments.flag("add_special_tokens", add_special_tokens)
        tokens = self._tokens(text)
        token = arguments.whole("token", token, low=-tokens, high=tokens - 1) % tokens
        for name, value, count in zip(("layer", "head"), (layer, head), self._counts, strict=True):
            high = count - 1 if arguments.is_whole(count) else None
            arguments.whole(name, value, low=0, high=high)
        self._reading = result_of(_read(model, tokenizer, text, self._add_special_tokens))
        chosen = {"layer": layer, "head": head, "token": token}
        super().__init__(chosen=self.take(chosen), **self._sent())

    @property
    def _counts(self) -> tuple:
        """Layers and heads, as far as the model's config tells."""
        config = self.model.config.get_text_config()
        return tuple(
            getattr(config, name, None) for name in ("num_hidden_layers", "num_attention_heads")
        )

    def _tokens(self, text: str) -> int:
        """How many tokens the text has. Raises TypeError or ValueError for one that will not do."""
        more = {"add_special_tokens": self._add_special_tokens, "name": "text"}
        tokens = tokens_of(self.model, self.tokenizer, text, None, **more).shape[1]
        if all(map(arguments.is_whole, self._counts)):
            layers, heads = self._counts
            if layers * heads * tokens * (tokens + 1) > _MOST:
                raise ValueError(
                    f"text has {tokens:,} tokens: with {layers} layers of {heads} heads each, "
                    "their weights are too many for a browser; pass a shorter text"
                )
        return tokens

    def _sent(self) -> dict:
        return {"state": self._reading.state(), "weights": self._reading.roots()}

    def take(self, chosen: dict) -> dict:
        sizes = self._reading.sizes  # of a hybrid model, only the layers with attention
        return {name: arguments.whole(name, chosen.get(name), 0, sizes[name] - 1) for name in sizes}

    def on_read(self, content: dict) -> None:
        """Read another text."""
        text = content.get("text")
        self._tokens(text)

        def then(reading: Reading) -> None:
            self._reading = reading
            with self.hold_sync():
                for name, value in self._sent().items():
                    setattr(self, name, value)
                self.chosen = {**self.chosen, "token": len(reading.labels) - 1}

        steps = _read(self.model, self.tokenizer, text, self._add_special_tokens)
        self.work("Reading the text", steps, then)

    def close(self) -> None:
        super().close()
        self._reading = None

    # Its views

    @property
    def reading(self) -> Reading:
        """The text, its tokens, the weights and the lens."""
        self.check_open()
        return self._reading

    @property
    def title(self) -> str:
        return f"Inside of {self.reading.text!r}"

    def looked_at(self, most: int = 3) -> list[tuple[int, float]]:
        """The tokens that get most of the weight, and how much."""
        layer, head, query = self.chosen.values()
        weights = self.reading.weights[layer, head, query]
        order = weights.sort(descending=True, stable=True).indices[: min(most, query + 1)]
        return [(i, weights[i].item()) for i in order.tolist()]

    def predictions(self) -> Table:
        """What the lens says after the chosen token and the chosen layer."""
        lens, chosen = self.reading.lens, self.chosen
        # Layer 0 of the lens is the embedding, so what layer n of the attention makes is n + 1.
        return lens[(lens.layer == chosen["layer"] + 1) & (lens.position == chosen["token"])]

    def picture(self) -> str:
        return picture(self.reading, **self.chosen)

    def as_text(self) -> str:
        layer, head, query = self.chosen.values()
        labels = self.reading.labels
        seen = ", ".join(f"{i} {labels[i]} {weight:.3f}" for i, weight in self.looked_at())
        said = ", ".join(
            f"{row.prediction} {row.probability:.3f}" for row in self.predictions().itertuples()
        )
        return (
            f"{self.title}\n"
            f"layer {layer}, head {head}: token {query}, {labels[query]}, looks at {seen}\n"
            f"after layer {layer + 1} the lens says {said}"
        )

    def figure(self, ax=None):
        """The attention maps with matplotlib, the chosen one enlarged."""
        from .. import plots

        reading, chosen = self.reading, self.chosen
        return plots.plot_attention_overview(
            reading.weights, reading.labels, layer=chosen["layer"], head=chosen["head"], ax=ax
        )


def picture(reading: Reading, layer: int, head: int, token: int) -> str:
    """What is chosen of a reading, as HTML."""
    weights, name = reading.weights[layer, head], escaped(reading.labels[token])
    heading = f'<div style="margin:8px 0 2px;color:{MUTED};font-size:12px">'
    overview = _image(
        _overview(reading.tiles, layer, head),
        f"Attention maps of all layers, from left to right, and heads, from top to bottom; "
        f"layer {layer}, head {head} is framed",
        width=876,
    )
    enlarged = _image(
        _row_marked(_shaded(weights), token),
        f"Attention of layer {layer}, head {head}: a row is the token that looks, a column the "
        f"token looked at; the row of token {token} is marked",
        width=_SIDE,
    )
    strip = attention_strip(weights, reading.labels, query=token)._repr_html_()
    return card(
        f"{heading}all layers (left to right) and heads (top to bottom)</div>{overview}",
        f"{heading}layer {layer}, head {head}: where token {token}, "
        f"<b>{name}</b>, looks</div>{strip}",
        '<div style="display:flex;flex-wrap:wrap">'
        f'<div style="margin-right:24px">{heading}the whole head: a row looks at its columns'
        f"</div>{enlarged}</div>"
        f"<div>{heading}the lens: what would follow <b>{name}</b>, layer by layer</div>"
        f"{_lens_rows(reading.lens, layer, token)}</div></div>",
    )


def _lens_rows(lens: Table, layer: int, query: int) -> str:
    best = lens[lens.position == query].drop_duplicates("layer").iloc[::-1]
    if len(best) > _LAYERS:
        near = (best.layer - layer - 1).abs().rank(method="first") <= _LAYERS
        best = best[near]
    rows = []
    for row in best.itertuples():
        picked = row.layer == layer + 1
        number = f"<b>▸ {row.layer}</b>" if picked else str(row.layer)
        label = token(clipped(row.prediction, 16))
        rows.append(
            [
                number,
                f"<b>{label}</b>" if picked else label,
                bar(row.probability, BLUE if picked else FAINT, 120),
                f"{row.probability:.0%}",
            ]
        )
    return table(["after layer", "next", "", ""], rows, "rllr")


# Pictures: tensors of bytes, shape (…, height, width, 3)

_PALE, _DEEP = torch.tensor([156.0, 203, 232]), torch.tensor([0.0, 90, 143])
_WHITE, _GREY = torch.tensor([255.0, 255, 255]), torch.tensor([243.0, 244, 246])
_FRAME = torch.tensor([230, 159, 0], dtype=torch.uint8)


def _shaded(weights: Tensor) -> Tensor:
    """Weights as colours, on a scale of square roots, and grey where nothing can be looked at.

    In 20 steps, so that a last digit that differs between machines changes no picture.
    """
    share = (weights.sqrt() * 20).round()[..., None] / 20
    low = _WHITE + (_PALE - _WHITE) * (2 * share).clamp(max=1)
    colours = torch.where(share > 0.5, _PALE + (_DEEP - _PALE) * (2 * share - 1), low)
    size = weights.shape[-1]
    later = torch.ones(size, size, dtype=torch.bool).triu(1)
    return torch.where(later[..., None], _GREY, colours).round().byte()


def _tiles(weights: Tensor) -> Tensor:
    """The maps in small, with a white edge: where a dot holds several weights, the largest."""
    layers, _, tokens, _ = weights.shape
    dots = max(min(876 // layers - 3, 80), 4)
    if tokens > dots:
        weights = torch.nn.functional.adaptive_max_pool2d(weights, dots)
    colours = _enlarged(_shaded(weights), dots)
    return torch.nn.functional.pad(colours, (0, 0, 1, 2, 1, 2), value=255)


def _overview(tiles: Tensor, layer: int, head: int) -> Tensor:
    """Layers from left to right, heads from top to bottom, one framed."""
    tiles = tiles.clone()
    framed = tiles[layer, head]
    framed[[0, -1, -2]] = framed[:, [0, -1, -2]] = _FRAME
    return tiles.permute(1, 2, 0, 3, 4).flatten(2, 3).flatten(0, 1)


def _enlarged(picture: Tensor, side: int) -> Tensor:
    """Each dot of a square picture, shape (…, dots, dots, 3), as often as fits into `side`."""
    scale = max(side // picture.shape[-2], 1)
    return picture.repeat_interleave(scale, -2).repeat_interleave(scale, -3)


def _row_marked(picture: Tensor, row: int) -> Tensor:
    """The picture of a map, enlarged, with a frame around one row."""
    large = _enlarged(picture, _SIDE)
    scale = len(large) // len(picture)
    top, bottom = row * scale, (row + 1) * scale - 1
    right = bottom  # a token looks no further than at itself
    for line in range(min(2, scale)):
        large[[top + line, bottom - line], : right + 1] = _FRAME
        large[top : bottom + 1, [line, right - line]] = _FRAME
    return large


def _image(picture: Tensor, alt: str, width: int) -> str:
    from PIL import Image

    png = BytesIO()
    Image.fromarray(picture.numpy()).save(png, format="png", compress_level=1)
    data = base64.b64encode(png.getvalue()).decode()
    return (
        f'<img src="data:image/png;base64,{data}" alt="{quoted(alt)}" '
        f'style="width:{width}px;max-width:100%;height:auto;image-rendering:pixelated">'
    )

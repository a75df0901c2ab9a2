"""Inside a model: pick a layer, a head and a token, and see what it looks at and predicts."""

from __future__ import annotations

import base64
from collections.abc import Generator
from dataclasses import dataclass, replace
from io import BytesIO

import ipywidgets
import torch
from torch import Tensor

from .. import arguments
from ..colours import BLUE, FAINT, MUTED
from ..html import attention_strip, escaped, quoted
from ..internals import attentions, logit_lens
from ..tables import Table
from ..tokens import clipped
from .base import Explorer, bar, card, of_state, result_of, table, token, tokens_of
from .controls import text_box

_TOP = 5  # predictions of the lens to list
_LAYERS = 40  # of a deeper model, only so many rows, around the chosen one
_SIDE = 380  # pixels of the enlarged map


@dataclass(frozen=True)
class _Reading:
    """A text, and what went on inside while the model read it."""

    text: str
    labels: list[str]
    weights: Tensor  # (layers, heads, tokens, tokens)
    lens: Table
    tiles: Tensor  # (layers, heads, height, width, 3): the maps in small, as bytes


def _read(
    model, tokenizer, text: str, add_special_tokens: bool
) -> Generator[tuple[int, int], None, _Reading]:
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
    return _Reading(text, labels, weights, lens, _tiles(weights))


@dataclass(frozen=True)
class _View:
    """A text, and the layer, head and token that are looked at."""

    reading: _Reading
    chosen: tuple[int, int, int]


class Inside(Explorer):
    """All attention maps of a text, one enlarged; one token's look back; the lens at that token.

    text: what the model reads, twice: for its attention and for the lens. Up to some hundred
        tokens are still legible.
    layer, head: counted from 0, as in `llmviz.attentions`. token: the number of the one that
        looks, −1 the last.
    add_special_tokens: whether the tokenizer may put a bos token in front; False for a text that
        a chat template wrote.
    Raises TypeError or ValueError for an argument out of bounds, or a model without attention.
    """

    reading, chosen = of_state("reading"), of_state("chosen")  # chosen: layer, head and token

    def __init__(
        self,
        model,
        tokenizer,
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
        config = model.config.get_text_config()
        layers, heads = (
            getattr(config, name, None) for name in ("num_hidden_layers", "num_attention_heads")
        )
        layer, head = _number("layer", layer, layers), _number("head", head, heads)
        reading = result_of(_read(model, tokenizer, text, self._add_special_tokens))
        # A hybrid model's layers without attention do not count: now it is known how many do.
        layers, heads = reading.weights.shape[:2]
        layer, head = _number("layer", layer, layers), _number("head", head, heads)
        self._state = _View(reading, (layer, head, token))
        self.text_box = text_box("text", text, "What the model reads; Enter takes it over")
        self.layer_slider = _slider("layer", layer, layers, "From the first to the last")
        self.head_slider = _slider("head", head, heads, "Of the chosen layer")
        self.token_slider = _slider("token", token, tokens, "The one that looks back")
        self.text_box.observe(self.reacts(self._on_text), "value")
        for slider in self._sliders:
            slider.observe(self.reacts(self._on_slider), "value")
        super().__init__(
            self.text_box, ipywidgets.HBox(self._sliders, layout={"flex_flow": "row wrap"})
        )

    @property
    def _sliders(self) -> list[ipywidgets.IntSlider]:
        return [self.layer_slider, self.head_slider, self.token_slider]

    def _tokens(self, text: str) -> int:
        """How many tokens the text has. Raises TypeError or ValueError for one that will not do."""
        more = {"add_special_tokens": self._add_special_tokens, "name": "text"}
        return tokens_of(self.model, self.tokenizer, text, None, **more).shape[1]

    def settle(self) -> None:
        self.token_slider.max = len(self.reading.labels) - 1
        for slider, value in zip(self._sliders, self.chosen, strict=True):
            slider.value = value

    def texts(self) -> list:
        return [(self.text_box, self.reading.text)]

    def _on_slider(self) -> None:
        self._state = replace(self.state, chosen=tuple(s.value for s in self._sliders))

    def _on_text(self) -> None:
        def then(reading: _Reading) -> None:
            last = len(reading.labels) - 1
            layer, head, _ = self.chosen
            self._state = _View(reading, (layer, head, last))
            with self._quietly(), self.token_slider.hold_trait_notifications():
                self.token_slider.max = self.token_slider.value = last

        text = self.text_box.value
        self._tokens(text)
        steps = _read(self.model, self.tokenizer, text, self._add_special_tokens)
        self.work("Reading the text", steps, then, by=self.text_box)

    # Its views

    def looked_at(self, most: int = 3) -> list[tuple[int, float]]:
        """The tokens that get most of the weight, and how much."""
        layer, head, query = self.chosen
        weights = self.reading.weights[layer, head, query]
        order = weights.sort(descending=True, stable=True).indices[: min(most, query + 1)]
        return [(i, weights[i].item()) for i in order.tolist()]

    def predictions(self) -> Table:
        """What the lens says after the chosen token and the chosen layer."""
        layer, _, query = self.chosen
        lens = self.reading.lens
        # Layer 0 of the lens is the embedding, so what layer n of the attention makes is n + 1.
        return lens[(lens.layer == layer + 1) & (lens.position == query)]

    def picture(self) -> str:
        layer, head, query = self.chosen
        weights, labels = self.reading.weights, self.reading.labels
        name = escaped(labels[query])
        heading = f'<div style="margin:8px 0 2px;color:{MUTED};font-size:12px">'
        overview = _image(
            _overview(self.reading.tiles, layer, head),
            f"Attention maps of all layers, from left to right, and heads, from top to bottom; "
            f"layer {layer}, head {head} is framed",
            width=876,
        )
        enlarged = _image(
            _row_marked(_shaded(weights[layer, head]), query),
            f"Attention of layer {layer}, head {head}: a row is the token that looks, a column the "
            f"token looked at; the row of token {query} is marked",
            width=_SIDE,
        )
        strip = attention_strip(weights[layer, head], labels, query=query)._repr_html_()
        return card(
            f"{heading}all layers (left to right) and heads (top to bottom)</div>{overview}",
            f"{heading}layer {layer}, head {head}: where token {query}, "
            f"<b>{name}</b>, looks</div>{strip}",
            '<div style="display:flex;flex-wrap:wrap">'
            f'<div style="margin-right:24px">{heading}the whole head: a row looks at its columns'
            f"</div>{enlarged}</div>"
            f"<div>{heading}the lens: what would follow <b>{name}</b>, layer by layer</div>"
            f"{self._lens_rows()}</div></div>",
        )

    def _lens_rows(self) -> str:
        layer, _, query = self.chosen
        lens = self.reading.lens
        best = lens[(lens.position == query) & (lens["rank"] == 1)].iloc[::-1]
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
        return table(["behind layer", "next", "", ""], rows, "rllr")

    def as_text(self) -> str:
        layer, head, query = self.chosen
        labels = self.reading.labels
        seen = ", ".join(f"{i} {labels[i]} {weight:.3f}" for i, weight in self.looked_at())
        said = ", ".join(
            f"{row.prediction} {row.probability:.3f}" for row in self.predictions().itertuples()
        )
        return (
            f"Inside of {self.reading.text!r}\n"
            f"layer {layer}, head {head}: token {query}, {labels[query]}, looks at {seen}\n"
            f"behind layer {layer + 1} the lens says {said}"
        )

    def figure(self, ax=None):
        """The attention maps with matplotlib, the chosen one enlarged."""
        from .. import plots

        layer, head, _ = self.chosen
        reading = self.reading
        return plots.plot_attention_overview(
            reading.weights, reading.labels, layer=layer, head=head, ax=ax
        )


def _number(name: str, value, count) -> int:
    """A number from 0 to below `count`, where that is known."""
    high = count - 1 if arguments.is_whole(count) else None
    return arguments.whole(name, value, low=0, high=high)


def _slider(name: str, value: int, count: int, tooltip: str) -> ipywidgets.IntSlider:
    return ipywidgets.IntSlider(
        value=value, max=count - 1, description=name, tooltip=tooltip,
        style={"description_width": "60px"}, layout={"width": "290px"},
    )  # fmt: skip


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

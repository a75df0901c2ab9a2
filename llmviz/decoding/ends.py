"""Where the rows of a batch that transformers generated ended, which its output does not say."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import arguments
from .prefix import lengths_of


def asked_again(
    sequences: Tensor, start: int, eos: list[int], criteria: list[Callable], scores
) -> list[int]:
    """How many new tokens each row has up to the one with which it ended."""
    unfinished = torch.ones(len(sequences), dtype=torch.bool)
    lengths = torch.zeros(len(sequences), dtype=torch.long)
    for end in range(start + 1, sequences.shape[1] + 1):
        lengths += unfinished
        unfinished &= ~torch.isin(sequences[:, end - 1], torch.tensor(eos, dtype=torch.long))
        for criterion in criteria:
            said = criterion(sequences[:, :end], scores[: end - start])
            if not isinstance(said, (bool, Tensor)):
                raise ValueError(
                    f"stopping_criteria returned {arguments.shown(said)}: it must return a bool "
                    f"tensor of shape ({len(sequences)},), one value for each row"
                )
            unfinished &= ~torch.as_tensor(said).cpu()
    return lengths.tolist()


class Ends:
    """Where the rows of a batch ended, as far as the output tells.

    A row that has ended is filled with one token. So its end is disputed where it has a tail of
    one token that could be padding: an eos, or others. The tail was chosen if it has the highest
    scores where everything else has (greedy search), or else if drawing it was not too unlikely.
    """

    def __init__(self, scores, new_tokens: Tensor, eos: list[int], pad: int | None, likely: set):
        self.tokens, self.eos, self.pad, self.likely = new_tokens, eos, pad, likely
        chances, highest = [], []
        for step, tokens in zip(scores, new_tokens.T, strict=True):
            step, at = step.float(), tokens.clamp(min=0).to(step.device)[:, None]
            chances.append(step.softmax(-1).gather(-1, at)[:, 0].double().cpu())
            highest.append((step.gather(-1, at)[:, 0] == step.amax(-1)).cpu())
        self.chances, self.highest = torch.stack(chances, -1), torch.stack(highest, -1)

    def lengths(self, special: set[int]) -> list[int]:
        """The number of chosen tokens of each row; `special` are the ids of no text."""
        count, steps = self.tokens.shape
        lengths = lengths_of(self.tokens, self.eos)
        if count == 1:  # the search went on for as long as it did
            return lengths
        if self.pad is None:
            after = [self.tokens[r, n].item() for r, n in enumerate(lengths) if n < steps]
            self.pad = after[0] if after else None
        tails = {row: self._tail(row, end) for row, end in enumerate(lengths)}
        certain = torch.zeros(count, steps, dtype=torch.bool)
        for row, tail in tails.items():
            certain[row, : lengths[row] if tail is None else tail] = True
        greedy = bool(self.highest[certain].all())
        # If all of it was drawn, so much luck was in it.
        luck = self.chances[certain].prod().item() if greedy else 1.0
        weights = {}
        for row, tail in tails.items():
            end = lengths[row]
            while greedy and tail is not None and tail < end and self.highest[row, tail]:
                tail += 1
            if tail in (None, end):
                continue
            weight = luck * self.chances[row, tail:end].prod().item()
            token, run = self.tokens[row, tail].item(), end - tail
            if weight <= self._bound(token, run, greedy, token in special):
                weights[row, end], lengths[row] = weight, tail
        # One row at least went on to the last step.
        if steps not in lengths and (late := {k: w for k, w in weights.items() if k[1] == steps}):
            row, end = max(late, key=late.get)
            lengths[row] = end
        return lengths

    def _tail(self, row: int, end: int) -> int | None:
        """Where the row's tail of one token begins that may be padding; None where it has none."""
        tokens = self.tokens[row].tolist()
        last = tokens[-1]
        start = end - 1 if tokens[end - 1] in self.eos else len(tokens) - 1
        if {*tokens[start:]} != {last} or self.pad not in (None, last):
            return None
        while start and last not in self.eos and tokens[start - 1] == last:
            start -= 1
        return max(start, 1) if end > 1 else None  # the first token was chosen in every row

    def _bound(self, token: int, run: int, greedy: bool, special: bool) -> float:
        """How likely it must be that a run of this token was chosen, or it counts as padding."""
        if token in self.eos:  # many a drawn text ends with an unlikely eos
            return 0.02 if greedy else 0.0
        if token == self.pad or token in self.likely:
            return 0.1 if special else 0.02
        return 1e-3 if greedy else 1e-6 if run > 1 else 0.0

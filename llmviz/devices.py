"""Devices: which are there, and whether they multiply as the CPU does."""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING

from . import arguments

if TYPE_CHECKING:
    import torch


def find_device(device: str | torch.device | None) -> torch.device:
    """The torch device that `device` names, by default a CUDA GPU where there is one, else the CPU.

    Raises ValueError for what is no device, or is not there.
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = arguments.shown(device)
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"device={given} is no torch device here: {said_by(error)}") from error
    if found.type == "meta":
        raise ValueError(f"device={given} holds no weights, so nothing can be generated there")
    try:
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, ImportError) as error:
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        here += [kind for kind in ("mps", "xpu") if getattr(torch, kind).is_available()]
        raise ValueError(
            f"device={given} is not there; this machine has {here}. torch: {said_by(error)}"
        ) from error
    if found.type == "mps":
        check_products(found)
    return found


def said_by(error: Exception) -> str:
    """The first sentence of what torch says, which may go on for pages."""
    said = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
    return "".join(c for c in said if c.isprintable())


@cache
def check_products(device: torch.device) -> None:
    """Compare two matrix products on `device` with the CPU's, once per process.

    Raises ValueError where a product as each step makes it, from a hidden state to the logits, is
    another than the CPU's. Warns where only a sum over the vocabulary is: the steps are right
    then, and what a lesson computes over all tokens is not.
    """
    import torch

    draw = torch.Generator().manual_seed(0)
    for terms, columns in ((256, 50_000), (262_144, 4)):
        left, right = (torch.randn(*s, generator=draw) for s in ((2, terms), (terms, columns)))
        off = (_product(left, right, device) - left @ right).abs().max().item()
        if off < 1e-3 * terms**0.5:
            continue
        wrong = (
            f"device={str(device)!r} multiplies wrongly: a sum of {terms:,} terms is {off:.3g} off"
        )
        if terms < columns:
            raise ValueError(f"{wrong}. Use device='cpu'")
        warnings.warn(
            f"{wrong}. The model's own steps are right, but sums over a vocabulary are not to be "
            "trusted: move such tensors to the CPU, or use device='cpu'",
            stacklevel=4,
        )


def _product(left, right, device):
    return (left.to(device) @ right.to(device)).cpu()


def compute_in_full_float32() -> None:
    """Switch TensorFloat-32 off, which rounds what a GPU multiplies to 10 bits.

    With it, a text made on a GPU could differ from the CPU's. torch leaves it on for convolutions,
    such as Mamba's, and NVIDIA's containers switch it on for matrices too.
    """
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False

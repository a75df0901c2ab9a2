"""The explorers: `lazy_loader` imports what is listed here when it is first used."""

from .compare import Comparison as Comparison
from .stepper import Stepper as Stepper

"""The explorers: `lazy_loader` imports what is listed here when it is first used."""

from .beams import BeamExplorer as BeamExplorer
from .compare import Comparison as Comparison
from .inside import Inside as Inside
from .stepper import Stepper as Stepper

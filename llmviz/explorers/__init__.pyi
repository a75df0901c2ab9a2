"""The explorers: `lazy_loader` imports what is listed here when it is first used."""

from .beams import BeamExplorer as BeamExplorer
from .chain import ProcessorChain as ProcessorChain
from .inside import Inside as Inside
from .sampler import SamplerBench as SamplerBench

"""The explorers: `lazy_loader` imports what is listed here when it is first used."""

from .chain import ProcessorChain as ProcessorChain
from .sampler import SamplerBench as SamplerBench

"""What finds triples in documents: `StructuredExtractor`, `RuleExtractor`, `LLMExtractor`."""

from kblam_engine.sources.extractors.base import Extractor
from kblam_engine.sources.extractors.llm import LLMExtractor
from kblam_engine.sources.extractors.rules import RuleExtractor
from kblam_engine.sources.extractors.structured import StructuredExtractor

__all__ = ["Extractor", "LLMExtractor", "RuleExtractor", "StructuredExtractor"]

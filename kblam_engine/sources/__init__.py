"""Where triples come from: tables, RDF, documents. `open_source` reads any of them through one small protocol."""

from kblam_engine.sources.registry import Format, formats, open_source, register
from kblam_engine.sources.source import Source

__all__ = ["Format", "Source", "formats", "open_source", "register"]

"""Scoring the keys of a knowledge base: all of them, down a tree, or by a library or service of vector search."""

from kblam_engine.search.exact import ExactIndex, scan
from kblam_engine.search.interface import INDEX_KINDS, Found, IndexKind, KeyIndex

__all__ = ["INDEX_KINDS", "ExactIndex", "Found", "IndexKind", "KeyIndex", "scan"]

"""The knowledge base: triples and their sentence embeddings, in a directory or in memory; knows no LLM."""

from kblam_engine.knowledge_base.knowledge_base import KnowledgeBase
from kblam_engine.knowledge_base.records import AddResult, KBInfo, SearchHit
from kblam_engine.knowledge_base.snapshot import KBSnapshot

__all__ = ["AddResult", "KBInfo", "KBSnapshot", "KnowledgeBase", "SearchHit"]

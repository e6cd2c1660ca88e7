"""The knowledge base: triples and their sentence embeddings, in a directory or in memory; knows no LLM."""

from kblam_engine.knowledge_base.knowledge_base import KnowledgeBase
from kblam_engine.knowledge_base.records import (
    AddResult,
    CompactResult,
    DocumentsResult,
    KBDiff,
    KBDocument,
    KBInfo,
    KBStats,
    MergeResult,
    RepairResult,
    Revision,
    SearchHit,
    TripleVersion,
)
from kblam_engine.knowledge_base.snapshot import KBSnapshot
from kblam_engine.knowledge_base.verification import problems_at
from kblam_engine.knowledge_base.view import KBView

__all__ = [
    "AddResult",
    "CompactResult",
    "DocumentsResult",
    "KBDiff",
    "KBDocument",
    "KBInfo",
    "KBSnapshot",
    "KBStats",
    "KBView",
    "KnowledgeBase",
    "MergeResult",
    "RepairResult",
    "Revision",
    "SearchHit",
    "TripleVersion",
    "problems_at",
]

"""Triples as LlamaIndex nodes: what ``source_nodes``, retrievers and evaluators read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.schema import NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode

from kblam_engine.triples import Triple
from kblam_integrations._documents import without_texts
from kblam_integrations.llama_index.graph import REF_DOC

_CONTEXT = ("provenance", "namespace", "tags", "valid_from", "valid_to")


def attended_nodes(raw: Mapping[str, Any]) -> list[NodeWithScore]:
    """Return a node for each triple that an answer attended, the most probable answer first.

    A node's score is the triple's share of the attention, 0 to 1. A refusal attends none.

    Args:
        raw: an answer as ``KBLaMLLM`` responses carry it.
    """
    attended: Sequence[Mapping[str, Any]] = raw["attended"]
    return [
        NodeWithScore(node=_node(raw["kb"], item["id"], item, {"spans": item["spans"]}), score=item["weight"])
        for item in attended
        if item["weight"] > 0.0
    ]


def selected_nodes(raw: Mapping[str, Any]) -> list[NodeWithScore]:
    """Return a node for each triple that an answer may attend, before it has been written, the most probable first.

    A node's score is the probability, 0 to 1, that the triple answers.

    Args:
        raw: what the first response of a stream carries.
    """
    selected: Sequence[Mapping[str, Any]] = raw["selected"]
    return [NodeWithScore(node=_node(raw["kb"], item["id"], item, {}), score=item["score"]) for item in selected]


def triple_node(kb_id: str, triple_id: int, triple: Triple) -> TextNode:
    """Return a triple as a node.

    Its text is the triple as a sentence; its id is the same as long as the triple is. Its metadata holds `name`, `property`,
    `value`, `triple_id`, where known `provenance`, and the triple's own; the language model is shown none of it, the
    text says it all. If a document is known to say it, that is the node's source, and the node's character indices are
    those of the document that say it.

    Args:
        kb_id: id of the knowledge base.
        triple_id: id of the triple there.
        triple: the triple.
    """
    return _node(kb_id, triple_id, triple.to_dict() | {"metadata": triple.metadata}, {})


def answer_metadata(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``Response.metadata`` says of an answer, beside its text and its sources."""
    names = ("refused", "grounded", "confidence", "usage", "finish_reason", "ttft_ms", "ms_per_token", "model")
    return {name: raw[name] for name in names if name in raw}


def _node(kb_id: str, triple_id: int, parts: Mapping[str, Any], more: Mapping[str, Any]) -> TextNode:
    own = without_texts(parts.get("metadata") or {})
    key = {name: parts[name] for name in ("name", "property", "value")}
    triple = Triple(**key)
    known = {name: parts[name] for name in _CONTEXT if parts.get(name)}
    metadata = {**own, **known, **key, "triple_id": triple_id, **more}
    node = TextNode(id_=f"{kb_id}-{triple_id}", text=triple.statement, metadata=metadata)
    span = (known.get("provenance") or {}).get("span")
    if span is not None:
        node.start_char_idx, node.end_char_idx = span
    node.excluded_llm_metadata_keys = node.excluded_embed_metadata_keys = list(metadata)
    document = own.get(REF_DOC) or (known.get("provenance") or {}).get("document")
    if document:
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=str(document))
    return node

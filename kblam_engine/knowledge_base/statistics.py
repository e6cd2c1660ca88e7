"""Counts of what a knowledge base holds."""

from __future__ import annotations

from collections.abc import Sequence

from kblam_engine.knowledge_base.conditions import Condition
from kblam_engine.knowledge_base.records import Counts, KBStats, Revision
from kblam_engine.knowledge_base.store import Store

_STEPS = 24
# A triple's URI, or the id of its document where it has none: a document and where it lies are one source.
_PLACE = (
    "(b.kind = 'uri' OR b.kind = 'document' AND t.id NOT IN ("
    "SELECT o.triple_id FROM labelled o JOIN labels u ON u.id = o.label_id WHERE u.kind = 'uri'))"
)


def statistics(store: Store, condition: Condition, top: int, steps: Sequence[Revision]) -> KBStats:
    """Count the triples `t` to which a condition applies, by name, property and label.

    Args:
        store: where they are.
        condition: which triples count.
        top: how many names and so on to tell.
        steps: the revisions of which the growth consists, oldest first; none where a part is counted.
    """
    where, parameters = condition
    counts: dict[str, Counts] = {}
    with store.reading() as connection:
        n_triples, n_names, n_properties = connection.execute(
            "SELECT count(*), count(DISTINCT t.name_id), count(DISTINCT t.property_id) "
            f"FROM triples t WHERE {where}",
            parameters,
        ).fetchone()
        n_sources = connection.execute(
            "SELECT count(DISTINCT b.text) FROM labels b JOIN labelled l ON l.label_id = b.id "
            f"JOIN triples t ON t.id = l.triple_id WHERE {_PLACE} AND {where}",
            parameters,
        ).fetchone()[0]
        for table, column in (("names", "name_id"), ("properties", "property_id")):
            counts[table] = connection.execute(
                f"SELECT (SELECT text FROM {table} WHERE id = t.{column}), count(*) AS n FROM triples t "
                f"WHERE {where} GROUP BY t.{column} ORDER BY n DESC, t.{column} LIMIT ?",
                (*parameters, top),
            ).fetchall()
        kinds = {"namespaces": "b.kind = 'namespace'", "tags": "b.kind = 'tag'", "sources": _PLACE}
        for part, kind in kinds.items():
            counts[part] = connection.execute(
                "SELECT b.text, count(DISTINCT t.id) AS n FROM labels b JOIN labelled l ON l.label_id = b.id "
                f"JOIN triples t ON t.id = l.triple_id WHERE {kind} AND {where} "
                "GROUP BY b.text ORDER BY n DESC, b.text LIMIT ?",
                (*parameters, top),
            ).fetchall()
    return KBStats(
        n_triples, n_names, n_properties, n_sources, growth=_spread(steps), n_revisions=len(steps), **counts
    )


def _spread(steps: Sequence[Revision]) -> list[Revision]:
    """Return a few dozen of these revisions at most, evenly spread, the last one among them."""
    some = list(steps[:: max(1, -(-len(steps) // _STEPS))])
    return some if not steps or some[-1] is steps[-1] else [*some, steps[-1]]

"""Counts of what a knowledge base holds."""

from __future__ import annotations

from kblam_engine.knowledge_base.conditions import Condition
from kblam_engine.knowledge_base.history import revisions
from kblam_engine.knowledge_base.records import Counts, KBStats
from kblam_engine.knowledge_base.store import Store

_STEPS = 24


def statistics(store: Store, condition: Condition, top: int) -> KBStats:
    """Count the triples `t` to which a condition applies, by name, property and label."""
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
            f"JOIN triples t ON t.id = l.triple_id WHERE b.kind IN ('document', 'uri') AND {where}",
            parameters,
        ).fetchone()[0]
        for table, column in (("names", "name_id"), ("properties", "property_id")):
            counts[table] = connection.execute(
                f"SELECT (SELECT text FROM {table} WHERE id = t.{column}), count(*) AS n FROM triples t "
                f"WHERE {where} GROUP BY t.{column} ORDER BY n DESC, t.{column} LIMIT ?",
                (*parameters, top),
            ).fetchall()
        for part, kinds in (("namespaces", "'namespace'"), ("tags", "'tag'"), ("sources", "'document', 'uri'")):
            counts[part] = connection.execute(
                "SELECT b.text, count(DISTINCT t.id) AS n FROM labels b JOIN labelled l ON l.label_id = b.id "
                f"JOIN triples t ON t.id = l.triple_id WHERE b.kind IN ({kinds}) AND {where} "
                "GROUP BY b.text ORDER BY n DESC, b.text LIMIT ?",
                (*parameters, top),
            ).fetchall()
    steps = revisions(store, None)[::-1]
    spread = steps[:: max(1, -(-len(steps) // _STEPS))]
    growth = spread if not steps or spread[-1] is steps[-1] else [*spread, steps[-1]]
    return KBStats(n_triples, n_names, n_properties, n_sources, growth=growth, **counts)

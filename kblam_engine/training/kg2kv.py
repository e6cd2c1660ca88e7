"""Any graph as knowledge and as training data: KG2KV, as AtlasKV (arXiv 2510.17934, section 4.1) describes it.

An edge (head, relation, tail) is two pieces of knowledge. With the tail masked it says "the founder of Acme is Lena";
with the head masked, "the founded organisation of Lena is Acme". Unlike the published data, an entity keeps all its
relations, so that questions have neighbours they could be confused with.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any, Literal

from kblam_engine.errors import ConfigurationError, TripleError
from kblam_engine.training.graph_edges import Edge, edges_of
from kblam_engine.training.lexicon import PropertyPhrases
from kblam_engine.training.relation_phrases import phrases_for, questions_for
from kblam_engine.training.relations import RelationNamer, RelationNouns
from kblam_engine.training.worlds import Known, World
from kblam_engine.triples import Triple

__all__ = ["GraphKnowledge", "GraphSample", "kg2kv", "listed"]

MAX_NAME = 60
"""Characters of a name or a property, as for other real triples."""
MAX_VALUE = 280
"""Characters of a value, all tails of one head and relation together."""
SEVERAL_SHARE = 0.8
"""Of the entities of a world, how many have several properties if the graph has so many."""
MAX_VALUES = 5
"""Tails of one head and relation that an answer may list."""

Masked = Literal["head", "tail"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GraphSample:
    """A question, a key and its values: one or more edges with the same end masked.

    Attributes:
        question: in words that fit the relation.
        key: "the <property> of <name>".
        values: what is masked; several where the graph has several.
        answer: one sentence.
        name: the end that is not masked.
        property: the relation as a noun.
        masked: which end of the edge the values are.
        relation: as the graph calls it (the first, if two relations mean the same).
    """

    question: str
    key: str
    values: tuple[str, ...]
    answer: str
    name: str
    property: str
    masked: Masked
    relation: str


@dataclass(frozen=True)
class GraphKnowledge:
    """What a graph became, with an account of every edge: ``n_edges == n_used + sum(dropped.values())``.

    Attributes:
        triples: one for every value, each once; a KB needs ``multi=True`` to hold several of one name and property.
        samples: one for every name and property.
        relations: the nouns of each relation that occurs.
        n_edges: edges of the graph.
        n_used: edges that gave at least one triple.
        dropped: why the other edges gave none -> how many.
        one_way: why some of the used edges were read in one direction only -> how many.
        crowded: names and properties with more values than an answer can list; in ``triples``, not in ``samples``.
        shared_labels: labels that several nodes have; their edges are those of one name here.
        refused: relations for which the chat model's nouns were not taken -> why.
    """

    triples: tuple[Triple, ...]
    samples: tuple[GraphSample, ...]
    relations: Mapping[str, RelationNouns]
    n_edges: int
    n_used: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    one_way: Mapping[str, int] = field(default_factory=dict)
    crowded: tuple[tuple[str, str], ...] = ()
    shared_labels: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    def summary(self) -> str:
        """Return the account in a few lines."""
        lines = [
            f"{self.n_used} of {self.n_edges} edges used: {len(self.triples)} triples, {len(self.samples)} samples, "
            f"{len(self.relations)} relations"
        ]
        lines += [f"{count} edges dropped: {why}" for why, count in sorted(self.dropped.items())]
        lines += [f"{count} edges in one direction only: {why}" for why, count in sorted(self.one_way.items())]
        if self.crowded:
            lines.append(f"{len(self.crowded)} names with a property of too many values to list in one answer")
        if self.shared_labels:
            lines.append(f"{len(self.shared_labels)} labels shared by several nodes")
        if self.refused:
            lines.append(f"{len(self.refused)} relations named by rules, the model's nouns being unusable")
        return "\n".join(lines)

    @cached_property
    def phrases(self) -> Mapping[str, PropertyPhrases]:
        """How people ask for each property of the samples."""
        asked: dict[str, list[str]] = defaultdict(list)
        for nouns in self.relations.values():
            asked[nouns.of_head] += nouns.ask_of_head
            asked[nouns.of_tail] += nouns.ask_of_tail
        beside: dict[str, Counter[str]] = {s.property: Counter() for s in self.samples}
        values: dict[str, list[str]] = defaultdict(list)
        for entity in self._by_name.values():
            for sample in entity:
                beside[sample.property].update(other.property for other in entity if other is not sample)
                values[sample.property].append(listed(sample.values))
        question = {noun: questions_for(noun, asked[noun])[0] for noun in beside}
        usual = list(beside)
        return {
            noun: phrases_for(
                noun,
                tuple(dict.fromkeys(asked[noun])),
                # What entities have beside it is what it is confused with; then the rest of the graph.
                {other: question[other] for other in (*(n for n, _ in near.most_common()), *usual) if other != noun},
                values[noun],
            )
            for noun, near in beside.items()
        }

    def world(self, random: Random, n_entities: int = 600, *, max_properties: int = 8) -> World:
        """Return a world of entities of the graph with their properties, to draw training samples from.

        Several values of one property are one value there ("Lena and Bo"): a question then has one full answer.

        Raises:
            ConfigurationError: no entity has two properties, which follow-up questions need.
        """
        names = sorted(self._by_name)
        random.shuffle(names)
        # In most graphs most nodes have a single edge: left to chance, few entities would have confusable properties.
        several = [name for name in names if len(self._by_name[name]) > 1]
        single = [name for name in names if len(self._by_name[name]) == 1]
        n_several = max(n_entities - len(single), round(SEVERAL_SHARE * n_entities))
        names = [*several[:n_several], *single[: n_entities - min(n_several, len(several))]]
        known: list[Known] = []
        entities: list[tuple[int, ...]] = []
        for name in names:
            own = self._by_name[name]
            first = len(known)
            for sample in random.sample(own, min(max_properties, len(own))):
                triple = Triple(name, sample.property, listed(sample.values))
                known.append(Known(triple, self.phrases[sample.property], len(entities)))
            entities.append(tuple(range(first, len(known))))
        if not any(len(entity) > 1 for entity in entities):
            raise ConfigurationError(
                f"graph: expected an entity with two properties or more among {len(entities)}; got none"
            )
        return World(tuple(known), tuple(entities))

    @cached_property
    def _by_name(self) -> dict[str, list[GraphSample]]:
        by_name: dict[str, list[GraphSample]] = defaultdict(list)
        for sample in self.samples:
            by_name[sample.name].append(sample)
        return dict(by_name)


def kg2kv(
    graph: Any,
    *,
    namer: RelationNamer | None = None,
    masked: Sequence[Masked] = ("tail", "head"),
    relation_attribute: str | None = None,
    label: Callable[[Any], str] | None = None,
    max_name: int = MAX_NAME,
    max_value: int = MAX_VALUE,
    max_values: int = MAX_VALUES,
) -> GraphKnowledge:
    """Turn a graph into triples and question-key-value samples (AtlasKV, section 4.1).

    Every edge is read in both directions where that makes sense: not backwards from a number, a date or a long text,
    and not at all in an undirected graph, unless its relation means the same both ways.

    Args:
        graph: (head, relation, tail) edges, or a networkx graph of any kind; see ``edges_of``.
        namer: names the relations; None: by rules.
        masked: which ends are masked; ("tail",) reads edges forwards only.
        relation_attribute: edge attribute of a networkx graph that holds the relation; None: the usual ones.
        label: gives the name of a node; None: its label, or the node itself as text.
        max_name: characters of a name that is asked about, and of a property.
        max_value: characters of a value.
        max_values: values of one property that an answer may list; what has more is in no sample.

    Raises:
        ConfigurationError: it is no such graph, or `masked` is none of its choices.
    """
    if not masked or not set(masked) <= {"head", "tail"}:
        raise ConfigurationError(f"masked: expected tail, head or both; got {tuple(masked)!r}")
    namer = namer or RelationNamer()
    edges, shared = edges_of(graph, relation_attribute, label)
    reader = _Reader(namer, masked, max_name, max_value, {edge.head for edge in edges})
    for edge in edges:
        reader.read(edge)
    samples, crowded = reader.samples(max_value, max_values)
    found = GraphKnowledge(
        triples=tuple(reader.triples),
        samples=samples,
        relations=reader.relations,
        n_edges=len(edges),
        n_used=len(edges) - reader.dropped.total(),
        dropped=dict(reader.dropped),
        one_way=dict(reader.one_way),
        crowded=crowded,
        shared_labels=shared,
        refused={relation: why for relation, why in namer.refused.items() if relation in reader.relations},
    )
    logger.info("%s", found.summary())
    return found


def listed(values: Sequence[str]) -> str:
    """Return values as one: "Lena, Bo and Ana"; with semicolons if one of them has a comma or an "and"."""
    if len(values) == 1:
        return values[0]
    if any("," in value or " and " in value for value in values):
        return "; ".join(values)
    return f"{', '.join(values[:-1])} and {values[-1]}"


class _Reader:
    """Reads edges one by one and keeps the account."""

    def __init__(
        self, namer: RelationNamer, masked: Sequence[Masked], max_name: int, max_value: int, heads: set[str]
    ) -> None:
        self.triples: list[Triple] = []
        self.relations: dict[str, RelationNouns] = {}
        self.dropped: Counter[str] = Counter()
        self.one_way: Counter[str] = Counter()
        self._namer = namer
        self._masked = masked
        self._max_name, self._max_value = max_name, max_value
        self._heads = heads  # what has edges of its own is a thing, whatever it looks like
        self._values: dict[tuple[str, str], list[str]] = {}
        self._origin: dict[tuple[str, str], tuple[Masked, str]] = {}

    def read(self, edge: Edge) -> None:
        """Make the triples of an edge, or count why there are none."""
        nouns = None if edge.problem else self._namer(edge.relation) if edge.relation else None
        problem = self._problem(edge, nouns)
        if problem or nouns is None:
            self.dropped[problem] += 1
            return
        made: list[tuple[Masked, Triple]] = []
        reasons: list[str] = []
        for side in self._masked:
            backwards = side == "head"
            if backwards and edge.literal and edge.tail not in self._heads:
                reasons.append("the tail is a literal")
                continue
            parts = (edge.tail, nouns.of_tail, edge.head) if backwards else (edge.head, nouns.of_head, edge.tail)
            try:
                triple = self._triple(*parts)
            except TripleError as error:
                reasons.append(f"not usable text: {error.field}")
                continue
            if isinstance(triple, str):
                reasons.append(triple)
            else:
                made.append((side, triple))
        if not made:
            self.dropped[reasons[0]] += 1
            return
        if not any([self._added(side, triple, edge.relation) for side, triple in made]):
            self.dropped["says again what another edge says"] += 1
            return
        self.relations[edge.relation] = nouns
        if reasons:
            self.one_way[reasons[0]] += 1

    @staticmethod
    def _problem(edge: Edge, nouns: RelationNouns | None) -> str:
        if edge.problem:
            return edge.problem
        for part, text in (("head", edge.head), ("relation", edge.relation), ("tail", edge.tail)):
            if not text:
                return f"no {part}"
        if nouns is None:
            return "a relation without words"
        if edge.head.casefold() == edge.tail.casefold():
            return "a self-loop"
        if not edge.directed and not nouns.symmetric:
            return "no direction"
        return ""

    def _triple(self, name: str, property: str, value: str) -> Triple | str:
        """Return the triple, or which part is too long for a question."""
        for part, text, most in (
            ("name", name, self._max_name),
            ("property", property, self._max_name),
            ("value", value, self._max_value),
        ):
            if len(text) > most:
                return f"the {part} is longer than {most} characters"
        return Triple(name, property, value)

    def _added(self, masked: Masked, triple: Triple, relation: str) -> bool:
        key = (triple.name, triple.property)
        values = self._values.setdefault(key, [])
        if triple.value in values:
            return False
        values.append(triple.value)
        self._origin.setdefault(key, (masked, relation))
        self.triples.append(triple)
        return True

    def samples(self, max_value: int, max_values: int) -> tuple[tuple[GraphSample, ...], tuple[tuple[str, str], ...]]:
        """Return a sample for each name and property, and those with too many values for one."""
        samples, crowded = [], []
        for (name, prop), values in self._values.items():
            if len(values) > max_values or len(listed(values)) > max_value:
                crowded.append((name, prop))
                continue
            masked, relation = self._origin[name, prop]
            nouns = self.relations[relation]
            asked = nouns.ask_of_tail if masked == "head" else nouns.ask_of_head
            question = questions_for(prop, asked)[0].replace("{n}", name)
            triple = Triple(name, prop, listed(values))
            samples.append(
                GraphSample(
                    question, triple.key_text, tuple(values), triple.statement, name, prop, masked, relation
                )
            )
        return tuple(samples), tuple(crowded)

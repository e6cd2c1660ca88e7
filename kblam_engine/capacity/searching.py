"""How long a search takes: by the growth that was measured, and by counting what it has to score."""

from __future__ import annotations

from dataclasses import dataclass

from kblam_engine.capacity import measured
from kblam_engine.capacity.estimates import Estimate, total
from kblam_engine.capacity.terms import Known, Term, named, term

_SECTION = "a question, time of one processor"


@dataclass(frozen=True, slots=True)
class TreeSize:
    """Centres of a tree over n keys, n of 33,000 or more."""

    roots: Term
    inters: Term

    @classmethod
    def of(cls, n: Term) -> TreeSize:
        """Follow the rule by which trees are built; large clusters are split, which adds some."""
        fine = term(measured.FINENESS)
        planned = fine * n ** (term(2) / 3)
        return cls(fine * planned**0.5, term(measured.SPLIT) * planned)


@dataclass(frozen=True, slots=True)
class ListSize:
    """Lists of faiss over n keys, and the bytes that a key takes in them: its codes, 4 bits for two numbers, and its id."""

    lists: Term
    code: Term

    @classmethod
    def of(cls, n: Term) -> ListSize:
        """Follow the rule by which lists are made."""
        return cls(term(measured.LISTS) * n**0.5, term(measured.DIM) / 4 + 8)


@dataclass(frozen=True, slots=True)
class Scored:
    """What one search of a tree scores."""

    centres: Term
    keys: Term


def query_estimates(kind: str, n: Term) -> list[Estimate]:
    """Return the time of a question: encoding it, and one search in the keys of a node.

    Beyond the largest index that was searched a search is estimated twice, and the question takes the longer one.
    """
    beyond = n.value > measured.SEARCHED
    encoding = Estimate.of(_SECTION, "encoding the question", term(measured.QUESTION_MS), "ms")
    grown = measured.QUERY_MS[kind].at(n, "t", "ms")
    searching = Estimate.of(_SECTION, "a search, by the measured growth", grown, "ms", beyond)
    counts, slower, read = {"exact": _scan, "tree": _tree, "ann": _listed}[kind](n)
    longest = max([searching, *slower], key=lambda estimate: estimate.value)
    return [
        encoding,
        searching,
        *counts,
        *slower,
        total(_SECTION, "question, with the longest of these searches", [encoding, longest]),
        *(_narrow(n) if kind == "tree" and outgrows_beams(n.value) else []),
        Estimate.of(_SECTION, "read from disk by a search that finds nothing in memory", read, "B", beyond),
    ]


_Searched = tuple[list[Estimate], list[Estimate], Term]
"""What a search scores, times by that, bytes that it reads."""


def _scan(n: Term) -> _Searched:
    slower = []
    if n.value > measured.SEARCHED:
        time = _measured_ms("exact") * (n / measured.SEARCHED)
        slower.append(Estimate.of(_SECTION, "a search, if time grows as the keys do", time, "ms", True))
    return [], slower, n * (2 * term(measured.DIM))


def _tree(n: Term) -> _Searched:
    beyond = n.value > measured.SEARCHED
    scored = _scored(n)
    counts = [
        Estimate.of(_SECTION, "keys: scored by a search of the tree", scored.keys, "", beyond),
        Estimate.of(_SECTION, "centres: scored by a search of the tree", scored.centres, "", beyond),
    ]
    slower = []
    if beyond:
        share = (named("keys", scored.keys) + named("centres", scored.centres)) / _scored_in_measured_tree()
        name = "a search, by what it scores, the beam growing as where it grew fastest"
        slower.append(Estimate.of(_SECTION, name, _measured_ms("tree") * share, "ms", True))
    whole = term(measured.SCORED_AGAIN) * 2 * term(measured.DIM)
    coarse = term(measured.COARSE)
    return counts, slower, (named("keys", scored.keys) + whole / coarse) * coarse


def _listed(n: Term) -> _Searched:
    scored, code = _listed_keys(n), ListSize.of(n).code
    counts, slower = [], []
    if n.value > measured.SEARCHED:
        counts.append(Estimate.of(_SECTION, "scored: keys and centres of a search", scored, "", True))
        now = Known("scored_m", _listed_keys(_at_largest()).value, "", f"the same at {measured.SEARCHED:,} keys")
        name = "a search, by what it scores, the lists looked into growing as where they grew fastest"
        slower.append(Estimate.of(_SECTION, name, _measured_ms("ann") * (named("scored", scored) / now), "ms", True))
    return counts, slower, (scored + term(measured.CODED_AGAIN) * 2 * term(measured.DIM) / code) * code


def _narrow(n: Term) -> list[Estimate]:
    scored = _scored(n, widest=True)
    time = _measured_ms("tree") * ((scored.keys + scored.centres) / _scored_in_measured_tree())
    name = "a search, by what the widest beam of a build scores, recall not held"
    return [Estimate.of(_SECTION, name, time, "ms", True)]


def _measured_ms(kind: str) -> Term:
    """Return the time of a search in the largest index that was searched."""
    growth = measured.QUERY_MS[kind]
    (known,) = growth.at(_at_largest(), "t", "ms").knowns[:1]
    return term(known)


def _scored_in_measured_tree() -> Known:
    now = _scored(_at_largest())
    return Known("scored_m", now.keys.value + now.centres.value, "", f"keys + centres at {measured.SEARCHED:,} keys")


def outgrows_beams(n: float) -> bool:
    """Say whether holding recall would take a wider beam than any that a build tries, if beams go on growing so."""
    return measured.TREE_BEAM.at_most(term(n), "beam_i").value > measured.WIDEST_BEAM[1]


def _scored(n: Term, *, widest: bool = False) -> Scored:
    """Count what a search scores, with the beam that the measured growth gives, or the widest that a build tries."""
    size = TreeSize.of(n)
    roots, inters = named("roots", size.roots), named("inters", size.inters)
    if widest:
        source = "rule: widest beam, kblam_engine/search/recall.py"
        followed, opened = (
            term(Known(symbol, value, "", source))
            for symbol, value in zip(("beam_r", "beam_i"), measured.WIDEST_BEAM, strict=True)
        )
    else:
        followed, opened = measured.TREE_ROOTS.at_most(n, "beam_r"), measured.TREE_BEAM.at_most(n, "beam_i")
    if followed.value > size.roots.value:
        followed = roots
    if opened.value > size.inters.value:
        opened = inters
    return Scored(roots + followed * inters / roots, opened * n / inters)


def outgrows_probes(n: float) -> bool:
    """Say whether holding recall would take more lists of faiss than any number that a build tries."""
    return measured.PROBES.at_most(term(n), "probes").value > measured.MOST_PROBES


def _listed_keys(n: Term) -> Term:
    """Count what a search of faiss scores: centres, and keys by their codes."""
    lists, probes = ListSize.of(n).lists, measured.PROBES.at_most(n, "probes")
    if probes.value > lists.value:
        return lists + n
    return lists + probes * n / lists


def _at_largest() -> Term:
    return term(Known("n", measured.SEARCHED, "triples", "the largest size searched"))

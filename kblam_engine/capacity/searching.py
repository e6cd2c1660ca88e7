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


def query_estimates(kind: str, n: Term, beyond: bool) -> list[Estimate]:
    """Return the time of a question: encoding it, and one search in the keys of a node."""
    encoding = Estimate.of(_SECTION, "encoding the question", term(measured.QUESTION_MS), "ms")
    anchor, exponent = measured.QUERY_MS[kind].known("t", "ms")
    share = n / measured.LARGEST
    searching = Estimate.of(_SECTION, "a search, by the measured growth", term(anchor) * share ** exponent, "ms", beyond)
    estimates = [encoding, searching, total(_SECTION, "question, by the measured growth", [encoding, searching])]
    t = term(anchor)
    if kind == "exact":
        read, bytes_of_key = n, 2 * term(measured.DIM)
        if beyond:
            estimates.append(Estimate.of(_SECTION, "a search, if time grows as the keys do", t * share, "ms", True))
    elif kind == "tree":
        estimates += _tree(n, t, beyond)
        whole = term(measured.SCORED_AGAIN) * 2 * term(measured.DIM)
        read, bytes_of_key = named("keys", _scored(n).keys) + whole / measured.COARSE, term(measured.COARSE)
    else:
        code = ListSize.of(n).code
        read, bytes_of_key = _listed(n) + term(measured.CODED_AGAIN) * 2 * term(measured.DIM) / code, code
        if beyond:
            then = named("scored", _listed(n))
            now = Known("scored_m", _listed(_at_largest()).value, "", "the same at 1,000,000 keys")
            estimates += [
                Estimate.of(_SECTION, "scored: keys and centres of a search", _listed(n), ""),
                Estimate.of(_SECTION, "a search, by what it scores, the lists looked into growing as measured", t * then / now, "ms", True),
            ]
    estimates.append(
        Estimate.of(_SECTION, "read from disk by a search that finds nothing in memory", read * bytes_of_key, "B", beyond)
    )
    return estimates


def _tree(n: Term, t: Term, beyond: bool) -> list[Estimate]:
    scored = _scored(n)
    found = [
        Estimate.of(_SECTION, "keys: scored by a search of the tree", scored.keys, "", beyond),
        Estimate.of(_SECTION, "centres: scored by a search of the tree", scored.centres, "", beyond),
    ]
    if beyond:
        now = _scored(_at_largest())
        before = Known("scored_m", now.keys.value + now.centres.value, "", "keys + centres at 1,000,000 keys")
        all_of_it = (named("keys", scored.keys) + named("centres", scored.centres)) / before
        found.append(
            Estimate.of(_SECTION, "a search, by what it scores, the beam growing as measured", t * all_of_it, "ms", True)
        )
    if outgrows_beams(n.value):
        narrow = _scored(n, widest=True)
        widest = t * ((narrow.keys + narrow.centres) / before)
        name = "a search, by what the widest beam of a build scores, recall not held"
        found.append(Estimate.of(_SECTION, name, widest, "ms", True))
    return found


def outgrows_beams(n: float) -> bool:
    """Say whether holding recall would take a wider beam than any that a build tries, if beams go on growing so."""
    return _grown(measured.TREE_BEAM, "beam_i", term(n)).value > measured.WIDEST_BEAM[1]


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
        followed, opened = _grown(measured.TREE_ROOTS, "beam_r", n), _grown(measured.TREE_BEAM, "beam_i", n)
    if followed.value > size.roots.value:
        followed = roots
    if opened.value > size.inters.value:
        opened = inters
    return Scored(roots + followed * inters / roots, opened * n / inters)


def outgrows_probes(n: float) -> bool:
    """Say whether holding recall would take more lists of faiss than any number that a build tries."""
    return _grown(measured.PROBES, "probes", term(n)).value > measured.MOST_PROBES


def _grown(growth: measured.Growth, symbol: str, n: Term) -> Term:
    anchor, exponent = growth.known(symbol, "")
    return term(anchor) * (n / measured.LARGEST) ** exponent


def _listed(n: Term) -> Term:
    """Count what a search of faiss scores: centres, and keys by their codes."""
    lists = ListSize.of(n).lists
    return lists + _grown(measured.PROBES, "probes", n) * n / lists


def _at_largest() -> Term:
    return term(Known("n", measured.LARGEST, "triples", "the largest size measured"))

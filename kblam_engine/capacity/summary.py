"""A plan in six lines: disk, RAM, GPU memory, time to build, of a question and of the first token, each with a short formula.

The same numbers as the totals of the plan; what has a formula of its own there is named in these.
"""

from __future__ import annotations

from collections.abc import Sequence

from kblam_engine.capacity import measured
from kblam_engine.capacity.estimates import Estimate
from kblam_engine.capacity.shapes import ModelShape
from kblam_engine.capacity.terms import Known, Term, named, term

_SECTION = "results"
_FIRST = "first token of an answer, one thread on two cores"


def first_token(found: Sequence[Estimate], n: Term, shape: ModelShape) -> Estimate:
    """Return the time to the first token: as measured among few triples, and two searches among more.

    That another model reads a prompt in time as it has weights is assumed. Nothing is taken off for what goes on side by side.
    """
    weights = Known("weights", shape.n_parameters, "", f"counted from the shape of {shape.name}, {shape.source}")
    few = Known("search_10k", measured.QUERY_MS["exact"].points[0][1], "ms", f"exact at {measured.ASKED_AT:,} keys, query_cpu_ms in {measured.GROWTH}")
    prompt = term(measured.PROMPT_MS) * weights / measured.DEFAULT_WEIGHTS
    more = term(measured.SEARCHES) * (named("search", term(longest_search(found).value), "ms") - few)
    is_beyond = n.value > measured.ASKED_MOST or weights.value != measured.DEFAULT_WEIGHTS.value
    return Estimate.of(_FIRST, "first token", prompt + (term(measured.ASKED_MS) - measured.PROMPT_MS) + more, "ms", is_beyond)


def results(found: Sequence[Estimate], n: Term) -> tuple[Estimate, ...]:
    """Return the numbers that a reader wants first, each equal to a total of the plan."""
    return (_disk(found, n), _ram(found, n), _gpu(found), _build(found, n), _query(found), _first(found))


def longest_search(found: Sequence[Estimate]) -> Estimate:
    """Return the search that a question takes in the plan."""
    total = _starting(found, "question, with")
    (name,) = [known.symbol for known in total.knowns if known.symbol.startswith("a search")]
    return _starting(found, name)


def _disk(found: Sequence[Estimate], n: Term) -> Estimate:
    whole = _of(found, "disk of a node", "disk")
    made = n * measured.STORE_BYTES
    if whole.value - made.value > 1:
        made = made + _part("index", whole.value - made.value, "B")
    return _result("disk", made, whole)


def _ram(found: Sequence[Estimate], n: Term) -> Estimate:
    section = "memory of a node"
    whole, kb = _of(found, section, "memory"), _of(found, section, "memory of the KB, beyond mapped files")
    held = n * measured.STORE_MEMORY
    model, process = _of(found, section, "base model, 32 bits"), _of(found, section, "libraries, encoder, one answer")
    made = held + _part("keys", kb.value - held.value, "B") + _part("model", model.value, "B") + _part("process", process.value, "B")
    return _result("RAM", made, whole)


def _gpu(found: Sequence[Estimate]) -> Estimate:
    section = "GPU memory, if the model is on one"
    whole, model = _of(found, section, "GPU memory"), _of(found, section, "base model, 16 bits")
    cache, kb = _of(found, section, "KV cache of a conversation, 16 bits"), _of(found, section, "KB part, whatever the KB's size")
    (weights,) = (known for known in model.knowns if known.symbol == "weights")
    return _result("GPU memory", term(weights) * 2 + _part("cache", cache.value, "B") + _part("adapter", kb.value, "B"), whole)


def _build(found: Sequence[Estimate], n: Term) -> Estimate:
    whole = next(e for e in found if e.is_total and e.name.startswith("build"))
    (cores,) = (known for known in _starting(found, "encoding keys").knowns if known.symbol == "cores")
    made = n * (term(2) / (term(measured.TEXTS_PER_S) * cores) + measured.IMPORT_S) / 3600.0
    if whole.value - made.value > 1e-9 * whole.value:
        made = made + _part("index", whole.value - made.value, "h")
    return _result("build time", made, whole)


def _query(found: Sequence[Estimate]) -> Estimate:
    search = _part("search", longest_search(found).value, "ms")
    return _result("query time", term(measured.QUESTION_MS) + search, _starting(found, "question, with"))


def _first(found: Sequence[Estimate]) -> Estimate:
    whole = _of(found, _FIRST, "first token")
    known = {known.symbol: known for known in whole.knowns}
    prompt = known["prompt"].value * known["weights"].value / known["weights_135m"].value
    made = _part("model", prompt, "ms") + _part("added", known["asked"].value - known["prompt"].value, "ms")
    more = term(known["searches"]) * (_part("search", known["search"].value, "ms") - known["search_10k"])
    return _result("first token", made + more, whole)


def _result(name: str, made: Term, whole: Estimate) -> Estimate:
    return Estimate.of(_SECTION, name, made, whole.unit, whole.extrapolated)


def _part(symbol: str, value: float, unit: str) -> Term:
    """Return a part whose formula is told in the plan."""
    return term(Known(symbol, value, unit, "in the plan"))


def _of(found: Sequence[Estimate], section: str, name: str) -> Estimate:
    return next(estimate for estimate in found if (estimate.section, estimate.name) == (section, name))


def _starting(found: Sequence[Estimate], start: str) -> Estimate:
    return next(estimate for estimate in found if estimate.name.startswith(start))

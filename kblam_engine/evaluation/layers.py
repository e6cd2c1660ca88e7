"""Retrieval by KB layer, in the Markdown of a report."""

from __future__ import annotations

from collections.abc import Sequence

from kblam_engine.evaluation.markdown import header, row, with_interval
from kblam_engine.evaluation.results import BY_LAYER
from kblam_engine.evaluation.runs import Estimate, EvaluationRun, GridRun, estimate

_LABELS = dict(zip(BY_LAYER, ("top-1", "top-5"), strict=True))
_NOTE = (
    "Each KB layer ranks the triples by its attention, mean over heads: for sentence tokens summed over the prompt, for native "
    "tokens over the answer. Native tokens are of the triples that were opened, so a refusal finds none."
)


def layer_tables(runs: Sequence[EvaluationRun], grids: Sequence[GridRun]) -> list[str]:
    """Return tables of retrieval in each KB layer, of single runs and of each grid; empty where nobody asked for them."""
    tables = [table for table in (_of_runs(runs), *map(_of_grid, grids)) if table]
    return [line for table in [*tables, [_NOTE]] for line in ("", *table)][1:] if tables else []


def _of_runs(runs: Sequence[EvaluationRun]) -> list[str]:
    lines = []
    for run in runs:
        for name, found in run.systems.items():
            for layer, at in found.layers.items():
                cells = [with_interval(estimate([at], measure)) for measure in BY_LAYER]
                lines.append(row(run.name, f"{run.n_triples:,}", name, layer, at.n, *cells))
    return [*header("run", "triples", "system", "KB layer", "n", *_LABELS.values()), *lines] if lines else []


def _of_grid(grid: GridRun) -> list[str]:
    lines = []
    for name in grid.systems:
        found = [at.systems[name].layers if name in at.systems else {} for at in grid.sizes]
        for layer in dict.fromkeys(layer for one in found for layer in one):
            for measure, label in _LABELS.items():
                spreads = [one[layer].measures.get(measure) if layer in one else None for one in found]
                cells = [with_interval(Estimate(at.mean, at.low, at.high) if at else None) for at in spreads]
                lines.append(row(name, layer, label, *cells))
    heading = (f"{grid.name}: system", "KB layer", "", *(f"{at.size:,}" for at in grid.sizes))
    return [*header(*heading), *lines] if lines else []

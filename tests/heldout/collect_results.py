"""Print the tables of docs/results.md from the files of `kblam eval --json`, and keep short copies of them.

    python tests/heldout/collect_results.py docs/results elements-100.json elements-1000.json ...

A short copy has what `kblam report` needs, the attention of each answer included; it leaves out the values of attended
triples and those without attention, times and memory of single answers, and the baselines' texts.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from kblam_engine.evaluation.report import by_kind, grid_tables, overview
from kblam_engine.evaluation.runs import read_runs

KEPT = ("text", "refused", "confidence", "exact", "token_f1", "retrieval_top1", "retrieval_top5", "judge_score", "rouge_l", "bertscore")


def short(run: dict[str, Any]) -> dict[str, Any]:
    """Return a run without the parts that are long."""
    answers = [
        {
            **({"line": answer["line"]} if "line" in answer else {}),
            "kind": answer["kind"],
            "messages": answer["messages"],
            "supports": answer["supports"],
            "system": {**_scores(answer["system"]), "attended": attended(answer["system"]["attended"])},
            "baselines": {
                name: {key: value for key, value in _scores(found).items() if key != "text"}
                for name, found in answer["baselines"].items()
            },
        }
        for answer in run["answers"]
    ]
    return {**run, "answers": answers}


def short_grid(grid: dict[str, Any]) -> dict[str, Any]:
    """Return several sizes and seeds without the values of attended triples."""
    results = [
        {
            **one,
            "answers": [
                {**answer, "system": {**answer["system"], "attended": attended(answer["system"]["attended"])}}
                for answer in one["answers"]
            ],
        }
        for one in grid["results"]
    ]
    return {**grid, "results": results}


def attended(triples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return name, property and weight of the triples with attention; of an answer without any the first."""
    kept = [t for t in triples if t["weight"]] or triples[:1]
    return [{key: t[key] for key in ("name", "property", "weight")} for t in kept]


def _scores(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in KEPT if found.get(key) is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the short copies go")
    parser.add_argument("files", type=Path, nargs="+", help="what kblam eval --json wrote")
    arguments = parser.parse_args()
    names = [path.with_suffix(".json").name for path in {path.resolve(): path for path in arguments.files}]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        parser.error(f"expected files of different names, for all copies go into one folder, got {', '.join(twice)} more than once")
    if arguments.folder.exists() and not arguments.folder.is_dir():
        parser.error(f"{arguments.folder}: expected a folder for the short copies, got a file")
    runs, benches, grids = read_runs(arguments.files)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if benches:
        named = ", ".join(bench.name for bench in benches)
        print(f"no short copy of {named}: a file of kblam bench is short as it is, copy it", file=sys.stderr)
    kept = {run.name: short(run.data) for run in runs} | {grid.name: short_grid(grid.data) for grid in grids}
    for name, data in kept.items():
        text = json.dumps(data, indent=1, ensure_ascii=False)
        (arguments.folder / f"{Path(name).name}.json").write_text(text + "\n", encoding="utf-8")
    if runs:
        print("\n".join([*overview(runs), "", *by_kind(runs)]))
    for grid in grids:
        print("\n".join([grid.name, *grid_tables(grid)]))


if __name__ == "__main__":
    main()

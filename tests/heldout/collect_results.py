"""Print the tables of docs/results.md from the files of `kblam eval --json`, and keep short copies of them.

    python tests/heldout/collect_results.py docs/results elements-100.json elements-1000.json ...

A short copy has everything but the attended triples of each answer and the baselines' texts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

OVERALL = ("exact", "token_f1", "retrieval_top1", "retrieval_top5", "refusal_recall", "over_refusal")
BY_KIND = ("exact", "retrieval_top1", "retrieval_top5", "refusal_recall", "over_refusal")


def number(value: float | None) -> str:
    """Return a share as it stands in a table."""
    return "–" if value is None else f"{value:.2f}"


def row(*cells: object) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def header(*cells: str) -> list[str]:
    """Return the first two lines of a Markdown table."""
    return [row(*cells), "|" + "---|" * len(cells)]


def dense_exact(run: dict[str, Any], kind: str | None = None) -> float | None:
    """Return the exact answers of the dense baseline, if it was measured."""
    dense = run["baselines"].get("dense")
    if dense is None:
        return None
    exact: float | None = (dense["kinds"][kind] if kind else dense["overall"])["exact"]
    return exact


def tables(runs: dict[str, dict[str, Any]]) -> str:
    """Return the tables: overall, and by kind."""
    lines = header(
        "run", "triples", "n", "exact", "dense exact", "token F1", "top-1", "top-5", "refusal recall", "over-refusal"
    )
    for name, run in runs.items():
        overall = run["system"]["overall"]
        exact, *rest = (number(overall[key]) for key in OVERALL)
        lines.append(row(name, f"{run['n_triples']:,}", overall["n"], exact, number(dense_exact(run)), *rest))
    lines += ["", *header("run", "kind", "n", "exact", "dense", "top-1", "top-5", "refusal recall", "over-refusal")]
    for name, run in runs.items():
        for kind, found in run["system"]["kinds"].items():
            exact, *rest = (number(found[key]) for key in BY_KIND)
            lines.append(row(name, kind, found["n"], exact, number(dense_exact(run, kind)), *rest))
    return "\n".join(lines)


def short(run: dict[str, Any]) -> dict[str, Any]:
    """Return a run without the parts that are long."""
    answers = [
        {
            "question": answer.get("question") or answer["messages"][-1]["content"],
            "kind": answer["kind"],
            "text": answer["system"]["text"],
            "refused": answer["system"]["refused"],
            "exact": answer["system"]["exact"],
            "dense_exact": answer["baselines"].get("dense", {}).get("exact"),
        }
        for answer in run["answers"]
    ]
    return {**run, "answers": answers}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the short copies go")
    parser.add_argument("files", type=Path, nargs="+", help="what kblam eval --json wrote")
    arguments = parser.parse_args()
    runs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in arguments.files}
    for name, run in runs.items():
        text = json.dumps(short(run), indent=1, ensure_ascii=False)
        (arguments.folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(tables(runs))


if __name__ == "__main__":
    main()

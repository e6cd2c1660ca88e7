"""Print the tables of docs/results.md from the files of `kblam eval --json`, and keep short copies of them.

    python tests/heldout/collect_results.py docs/results elements-100.json elements-1000.json ...

A short copy has everything but the attended triples of each answer and the baselines' texts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from kblam_engine.evaluation.report import by_kind, overview
from kblam_engine.evaluation.runs import read_runs


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
    runs, *_ = read_runs(arguments.files)
    for run in runs:
        text = json.dumps(short(run.data), indent=1, ensure_ascii=False)
        (arguments.folder / f"{Path(run.name).name}.json").write_text(text + "\n", encoding="utf-8")
    print("\n".join([*overview(runs), "", *by_kind(runs)]))


if __name__ == "__main__":
    main()

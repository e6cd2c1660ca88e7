"""What the tests of evaluation grids share: lakes, questions about them, and a small grid."""

import pytest
from evaluation_parts import OTHERS, ask

from kblam_engine.evaluation import environment
from kblam_engine.evaluation.grid_run import run_grid
from kblam_engine.triples import Triple

LAKES = [Triple(f"Lake {i:02}", "depth", f"{i * 7 + 3} m") for i in range(30)]
ABOUT_LAKES = [
    *(ask(f"What is the depth of Lake {i:02}?", answers=[[f"{i * 7 + 3} m"]], supports=[[f"Lake {i:02}", "depth"]])
      for i in range(30)),
    *(ask(f"How old is Zed {i}?", kind="unanswerable") for i in range(6)),
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_git(monkeypatch):
    """Each cell says its commit, which takes longer than its answers do here."""
    monkeypatch.setattr(environment, "commit", lambda: "abc123")


def grid(model, **changes):
    given = {"sizes": (5, 40), "seeds": (0, 1, 2), "baselines": ["dense"], "limit": 12, **changes}
    return run_grid(model, LAKES, ABOUT_LAKES, OTHERS, **given)

"""The card of an adapter: on what it was trained, and how its validation loss went."""

import json

from engine_parts import adapter_config

from kblam_engine.evaluation import environment
from kblam_engine.training.card import MOST_ROWS, render_card
from kblam_engine.training.config import TrainConfig
from kblam_engine.training.metrics import Metrics, Validation, validations

EVIDENCE = {"n": 20.0, "auc": 0.9}


def card(*more, **options):
    return render_card(adapter_config(), TrainConfig(), 0.25, EVIDENCE, 600.0, *more, **options)


def rows(text):
    """Return (stage, step, loss) of the table of validations."""
    lines = text.split("| stage | step | loss |\n|---|---|---|\n")[1].split("\n\n")[0].splitlines()
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def test_a_card_names_the_processor(monkeypatch):
    found = environment.hardware()
    assert found["processor"] and f"10 minutes on {found['processor']} (" in card()
    assert f"{found['cores']} cores)" in card()
    monkeypatch.setattr(environment, "hardware", lambda: {**found, "gpu": "Some GPU"})
    assert "cores), Some GPU, " in card()


def test_a_card_has_the_validations_by_step():
    found = [Validation("native tokens", 100 * n, 1 / n) for n in (1, 2, 3)] + [Validation("sentence tokens", 50, 0.125)]
    assert rows(card(0.125, found)) == [
        ("native tokens", "100", "1.000"),
        ("native tokens", "200", "0.500"),
        ("native tokens", "300", "0.333"),
        ("sentence tokens", "50", "0.125"),
    ]
    assert "Validation loss by step" not in card()
    assert "\n\n\n" not in card() + card(validations=found)


def test_of_long_runs_every_few_are_shown_with_the_best_and_the_last():
    found = [Validation("native tokens", n, abs(n - 118) + 1.0) for n in range(1, 201)]
    shown = rows(card(validations=found))
    assert len(shown) <= MOST_ROWS + 1
    steps = [int(step) for _, step, _ in shown]
    assert steps == sorted(set(steps)) and {118, 200} <= set(steps) and steps[0] < 20


def test_validations_are_those_of_the_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert validations(path, "this") == []
    for run in ("other", "this"):
        write = Metrics(path, run)
        write("native tokens", 1, 2, {"loss": 3.0})
        write("native tokens", 2, 2, {"loss": 2.0, "validation": 1.5})
    with path.open("a") as file:
        file.write(json.dumps({"run": "other", "stage": "native tokens", "step": 9, "seconds": 1, "validation": 9.0}) + "\n")
        file.write('{"run": "this", "stage": "nat')
    assert validations(path, "this") == [Validation("native tokens", 2, 1.5)]

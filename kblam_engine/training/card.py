"""The card of an adapter: what it is, how it was made, what was measured, where it ends."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from kblam_engine.adapter import AdapterConfig
from kblam_engine.evaluation import environment
from kblam_engine.training.config import TrainConfig
from kblam_engine.training.metrics import Validation

MOST_ROWS = 12
"""Validations of a stage that a card shows."""


def render_card(
    adapter: AdapterConfig,
    config: TrainConfig,
    loss: float,
    evidence: dict[str, float],
    seconds: float,
    sentence_loss: float | None = None,
    validations: Sequence[Validation] = (),
) -> str:
    """Return the text of an adapter folder's README.md.

    Args:
        adapter: what was trained.
        config: the run.
        loss: validation loss of the native tokens, nats per answer token.
        evidence: validation numbers of the evidence head.
        seconds: duration of the run.
        sentence_loss: validation loss of the sentence tokens, if the adapter has any.
        validations: all of the run, if they are known.
    """
    hardware = environment.hardware()
    numbers = "\n".join(f"| {k} | {v:.3f} |" for k, v in evidence.items())
    sentence = "" if sentence_loss is None else f" Sentence tokens: {sentence_loss:.3f} nats per answer token."
    # Hundreds of names that training left out say less than how many they are.
    settings = {k: f"{len(v)} left out" if k.startswith("exclude_") else v for k, v in config.to_dict().items()}
    return f"""# KBLaM adapter for {adapter.base_model}

Lets the frozen base model `{adapter.base_model}` (`{adapter.base_fingerprint}`) answer from triples through its
attention. Needs the sentence encoder `{adapter.encoder}` (`{adapter.encoder_fingerprint}`).

```python
from kblam_engine import KBLaM, KnowledgeBase

model = KBLaM.from_pretrained("{adapter.base_model}", adapter="path/to/this/folder")
print(model.answer("Who founded Acme Robotics?", kb=KnowledgeBase.open("company.kb")).text)
```

## How it was made

`kblam train` in {seconds / 60:.0f} minutes on {_machine(hardware)}, {torch.get_num_threads()} threads, torch
{torch.__version__}. KB layers {list(adapter.native.layers)}. Data: invented names and values over the property
lexicon of this package, and real triples from {", ".join(config.sources) or "no other source"}.

```json
{json.dumps(settings, indent=2)}
```

## Measured while training, on samples that it did not train on

Native tokens: {loss:.3f} nats per answer token.{sentence} Evidence head, {int(evidence["n"])} questions:

| number | value |
|---|---|
{numbers}
{_by_step(validations)}
These are in-domain numbers. `docs/results.md` of the project has the ones on other sources.

## Limits

English. One or two triples per answer. Values are copied; the sentence around them is plain. A question whose
wording is far from the property's name and value may be refused although the KB holds the answer.
"""


def _machine(hardware: Mapping[str, Any]) -> str:
    """Return the processor as result files name it, and the GPU if there is one."""
    processor = f"{hardware['processor']} ({platform.machine()}, {hardware['cores']} cores)"
    return f"{processor}, {hardware['gpu']}" if hardware.get("gpu") else processor


def _by_step(validations: Sequence[Validation]) -> str:
    """Return a table of the validation loss by step, of long runs every few; empty without validations."""
    if not validations:
        return ""
    lines = ["", "Validation loss by step, in nats per answer token; the best adapter was kept:", "", "| stage | step | loss |", "|---|---|---|"]
    for stage in dict.fromkeys(one.stage for one in validations):
        lines += [f"| {one.stage} | {one.step} | {one.loss:.3f} |" for one in _thinned([v for v in validations if v.stage == stage])]
    return "\n".join([*lines, ""])


def _thinned(found: Sequence[Validation]) -> list[Validation]:
    """Return at most about ``MOST_ROWS`` of them, evenly, the best and the last among them."""
    every = -(-len(found) // MOST_ROWS)
    best = min(range(len(found)), key=lambda at: found[at].loss)
    shown = {best, *range(len(found) - 1, -1, -every)}
    return [found[at] for at in sorted(shown)]

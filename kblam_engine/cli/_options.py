"""Options that several commands have: a model with its parts, and a file for the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    typer.Option("--dtype", help="float32 or bfloat16; default: what suits the device.", show_default=False),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda or cuda:N.", show_default=False)
]
JSONFileOption = Annotated[
    Path | None,
    typer.Option("--json", help="Write everything to this file; - for stdout.", show_default=False),
]

"""`kblam ask`: one question, one answer."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from kblam_engine.cli._answering import (
    FROM_BASE,
    AddressOption,
    HopsOption,
    IndexOption,
    KBOption,
    MaxNewTokensOption,
    SeedOption,
    TemperatureOption,
    ThresholdOption,
    UnknownOption,
    from_base,
    model_and_kb,
    show_attended,
)
from kblam_engine.cli._options import DEFAULT_MODEL, AdapterOption, DeviceOption, DtypeOption, ModelOption
from kblam_engine.cli._printing import new_console, print_exact, say
from kblam_engine.cli.kb_common import (
    AtOption,
    NamespaceOption,
    Part,
    RevisionOption,
    SourceOption,
    TagOption,
)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("ask")(ask)


def ask(
    question: Annotated[str, typer.Argument(help="The question.", show_default=False)],
    kb: KBOption,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the attended triples, the confidence and the time.")
    ] = False,
    model: ModelOption = DEFAULT_MODEL,
    adapter: AdapterOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    max_new_tokens: MaxNewTokensOption = 256,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = None,
    refusal_threshold: ThresholdOption = None,
    max_hops: HopsOption = 1,
    unknown: UnknownOption = "refuse",
    index: IndexOption = "auto",
    address: AddressOption = None,
    namespace: NamespaceOption = None,
    tag: TagOption = None,
    source: SourceOption = None,
    at: AtOption = None,
    revision: RevisionOption = None,
) -> None:
    """Answer a question from a knowledge base, or refuse.

    --namespace, --tag, --source, --at and --revision let the model see only that part of it.
    """
    if not question.strip():
        raise typer.BadParameter("expected a question, got nothing", param_hint="QUESTION")
    part = Part.of(namespace, tag, source, at, revision)
    with model_and_kb(kb, model, adapter, dtype, device, index, address, part) as (loaded, base):
        loaded.indexes.background = False  # a build would end with this process, unfinished; that is for kblam kb index
        answer = loaded.answer(
            question,
            kb=base,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            refusal_threshold=refusal_threshold,
            max_hops=max_hops,
            unknown=unknown,
        )
    if as_json:
        print_exact(json.dumps(answer.to_dict(), ensure_ascii=False, indent=2))
        return
    say(answer.text)
    if from_base(answer):
        say(FROM_BASE)
    if explain:

        say()
        show_attended(new_console(highlight=False), answer)

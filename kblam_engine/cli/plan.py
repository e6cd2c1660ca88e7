"""`kblam plan`: what a knowledge base of a given size takes, with the formula behind every number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from kblam_engine.cli._measuring import STDOUT, check_target, write_json
from kblam_engine.cli._options import JSONFileOption, as_usage
from kblam_engine.cli._printing import new_console

if TYPE_CHECKING:
    from kblam_engine.capacity import Estimate, Plan

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("plan")(plan)


def plan(
    triples: str = typer.Option(..., "--triples", help="How many, in all: 250000 or 1e9."),
    model: str = typer.Option(
        "smollm2-135m", "--model", help="Base model: smollm2-135m, llama-3.2-1b, llama-3.1-8b, or a folder."
    ),
    nodes: str = typer.Option("1", "--nodes", help="Machines that the triples are spread over."),
    index: str = typer.Option("tree", "--index", help="How keys are searched: exact, tree or ann."),
    cores: str = typer.Option("1", "--cores", help="Processors of each machine that build."),
    context: str = typer.Option("2048", "--context", help="Tokens of a conversation on the GPU."),
    as_json: JSONFileOption = None,
) -> None:
    """Estimate what a KB of any size takes, and show how."""
    from kblam_engine.capacity import PlanRequest
    from kblam_engine.capacity import plan as planned

    check_target(as_json)
    numbers = {
        name: _whole(name, text)
        for name, text in (("triples", triples), ("nodes", nodes), ("cores", cores), ("context", context))
    }
    with as_usage():
        found = planned(PlanRequest(model=model, index=index, **numbers))  # type: ignore[arg-type]  # checked by it
    write_json(as_json, found.to_dict())
    _show(found, to_stderr=as_json == STDOUT)


def _whole(name: str, text: str) -> int:
    """Read a whole number, in digits or as 1e9.

    Raises:
        BadParameter: it is none.
    """
    wrong = typer.BadParameter(f"expected a whole number like 250000 or 1e9, got {text!r}", param_hint=f"--{name}")
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        raise wrong from None
    # Neither inf nor nan is a whole number, and int() of them is an error of its own.
    if not number.is_integer():
        raise wrong
    return int(number)


def _show(found: Plan, *, to_stderr: bool) -> None:
    """Print numbers and formulas by section, then every constant once with its source."""
    from rich.markup import escape

    console = new_console(stderr=to_stderr, soft_wrap=True, highlight=False)
    request = found.request
    how = "every key in memory" if request.is_kept else f"index {request.index}"
    console.print(
        f"{request.triples:,} triples on {request.nodes:,} node{'s'[: request.nodes > 1]}, "
        f"{request.per_node:,} each, {how}, model {found.shape.name}"
    )
    section = ""
    for estimate in found.estimates:
        if estimate.section != section:
            section = estimate.section
            console.print(f"\n[bold]{section}[/bold]")
        mark = "*" if estimate.extrapolated else " "
        name = estimate.name if not estimate.is_total else f"= {estimate.name}"
        console.print(f"{_amount(estimate):>12}{mark} {escape(name)}")
        console.print(f"{'':14}{escape(estimate.formula)}", style="dim")
    console.print("\n[bold]Constants[/bold]")
    shown = dict.fromkeys(known for estimate in found.estimates for known in estimate.knowns if known.source != "above")
    for known in shown:
        unit = f" {known.unit}" if known.unit else ""
        console.print(f"  {known.symbol} = {known.value:,.10g}{unit}: {escape(known.source)}")
    console.print()
    for note in found.notes:
        console.print(f"- {escape(note)}")


def _amount(estimate: Estimate) -> str:
    """Return a number with its unit, short."""
    value = estimate.value
    if estimate.unit == "B":
        for size, prefix in _PREFIXES:
            if value >= size:
                return f"{value / size:,.2f} {prefix}B"
        return f"{value:,.0f} B"
    if estimate.unit == "h" and value < 0.1:
        return f"{3600 * value:,.1f} s"
    if estimate.unit:
        return f"{value:,.1f} {estimate.unit}" if value >= 10 else f"{value:,.2f} {estimate.unit}"
    return f"{value:,.0f}"

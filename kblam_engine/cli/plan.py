"""`kblam plan`: what a knowledge base of a given size takes, with the formula behind every number.

Six results by default; with `--explain` every part of them, every constant with its source, and what the numbers rest on.
"""

from __future__ import annotations

import math
from textwrap import fill, wrap
from typing import TYPE_CHECKING

import typer

from kblam_engine.cli._measuring import STDOUT, check_target, write_json
from kblam_engine.cli._options import JSONFileOption, as_usage
from kblam_engine.cli._printing import new_console

if TYPE_CHECKING:
    from rich.console import Console

    from kblam_engine.capacity import Estimate, Known, Plan

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_FEW_HOURS = 0.1
"""Hours below which seconds are told beside them."""
_MANY_BYTES = 10_000
_WIDTH, _NAME, _AMOUNT = 80, 13, 16
_HARD = "\u00a0"
_BEYOND = "* beyond what was measured, and extrapolated."
_MORE = (
    "--explain shows every part, where each number was measured, what is in none of them, and KBLaM and AtlasKV beside them; "
    "--json FILE writes all of it."
)


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
    explain: bool = typer.Option(False, "--explain", help="Show every part, and where each number is from."),
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
    console = new_console(stderr=as_json == STDOUT, soft_wrap=True, highlight=False)
    (_explain if explain else _show)(found, console)


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


def _show(found: Plan, console: Console) -> None:
    """Print the six results, each with its formula and the numbers in that, and what does not work at this size."""
    from rich.markup import escape

    _print_request(found, console)
    for result in found.results:
        formula, *details = _with_numbers(result)
        amount = f"{_amount(result)}{' *' if result.extrapolated else ''}"
        console.print(f"[bold]{result.name:<{_NAME}}{amount:<{_AMOUNT - 1}}[/bold] {escape(formula)}")
        for line in details:
            console.print(f"{'':{_NAME + _AMOUNT}}{escape(line)}", style="dim")
    console.print()
    beyond = [_BEYOND] if any(result.extrapolated for result in found.results) else []
    for note in [*beyond, *found.warnings, _MORE]:
        console.print(escape(fill(note, _WIDTH)))


def _with_numbers(result: Estimate) -> list[str]:
    """Return a formula, and below it the numbers that it starts from; n is told once for all."""
    numbers = [f"{known.symbol} = {_known(known)}" for known in result.knowns if known.symbol != "n"]
    if result.unit == "h" and result.value < _FEW_HOURS:
        numbers.insert(0, f"= {_seconds(result)}")
    # Not inside a number: "texts = 289.4/s" stays on one line.
    kept = "; ".join(number.replace(" ", _HARD) for number in numbers)
    lines = wrap(kept, _WIDTH - _NAME - _AMOUNT, break_long_words=False, break_on_hyphens=False)
    return [result.formula, *(line.replace(_HARD, " ") for line in lines)]


def _known(known: Known) -> str:
    """Return the number behind a symbol, short, with its unit."""
    if known.unit in ("B", "h"):
        return _in_unit(known.value, known.unit)
    return f"{_short(known.value)} {known.unit}".rstrip()


def _print_request(found: Plan, console: Console) -> None:
    request = found.request
    how = "every key in memory" if request.is_kept else f"index {request.index}"
    console.print(
        f"{request.triples:,} triples on {request.nodes:,} node{'s'[: request.nodes > 1]}, "
        f"{how}, model {found.shape.name}", markup=False,
    )
    console.print(f"One node, n = {request.per_node:,} triples, built on {request.cores:,} core{'s'[: request.cores > 1]}:\n")


def _explain(found: Plan, console: Console) -> None:
    """Print numbers and formulas by section, then every constant once with its source."""
    from rich.markup import escape

    _print_request(found, console)
    section = ""
    for estimate in found.estimates:
        if estimate.section != section:
            section = estimate.section
            console.print(f"\n[bold]{section}[/bold]")
        mark = "*" if estimate.extrapolated else " "
        name = estimate.name if not estimate.is_total else f"= {estimate.name}"
        seconds = f" ({_seconds(estimate)})" if estimate.unit == "h" and estimate.value < _FEW_HOURS else ""
        console.print(f"{_amount(estimate):>12}{mark} {escape(name)}{seconds}")
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
    """Return a number with its unit, short; the unit is that of its formula, but for prefixes."""
    return _in_unit(estimate.value, estimate.unit)


def _in_unit(value: float, unit: str) -> str:
    if unit == "B":
        for size, prefix in _PREFIXES:
            if value >= max(size, _MANY_BYTES):
                return f"{value / size:,.2f} {prefix}B"
        return f"{_short(value)} B"
    if unit:
        return f"{_short(value)} {unit}"
    return f"{value:,.0f}"


def _short(value: float) -> str:
    """Return a number with as many digits as tell something, and without an exponent."""
    if value >= 1000 or value == round(value):
        return f"{value:,.0f}"
    digits = 1 if value >= 100 else 2 if value >= 1 else 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{digits}f}"


def _seconds(estimate: Estimate) -> str:
    return f"{_short(3600 * estimate.value)} s"

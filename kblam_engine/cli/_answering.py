"""What `kblam ask` and `kblam chat` share: their options, a model and a knowledge base, attended triples shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kblam_engine.cli._options import a_folder, a_number, a_threshold
from kblam_engine.cli._printing import new_console, say, styled
from kblam_engine.cli.kb_common import Part
from kblam_engine.cli.models import tell_preparation
from kblam_engine.errors import ConfigurationError
from kblam_engine.threads import BusyCores

if TYPE_CHECKING:
    from rich.console import Console

    from kblam_engine.answers import Answer
    from kblam_engine.cluster import ShardedKB
    from kblam_engine.engine import KBLaM
    from kblam_engine.knowledge_base import KnowledgeBase
    from kblam_engine.triples import Triple

KBOption = Annotated[
    Path,
    typer.Option("--kb", callback=a_folder, help="Directory of the knowledge base, or of its shards.", show_default=False),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Ray cluster whose machines hold the shards: auto, or host:port of its head; default: this process.",
        show_default=False,
    ),
]
MaxNewTokensOption = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")]
TemperatureOption = Annotated[
    float,
    typer.Option("--temperature", min=0.0, callback=a_number, help="0 for the likeliest words, higher for variety."),
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Makes answers above temperature 0 repeatable.", show_default=False),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--refusal-threshold",
        callback=a_threshold,
        help="Confidence below which the model refuses; default: the adapter's.",
        show_default=False,
    ),
]
HopsOption = Annotated[
    int, typer.Option("--max-hops", min=1, help="How often triples are selected for one answer.")
]
UnknownOption = Annotated[
    Literal["refuse", "base"],
    typer.Option(
        "--unknown", help="What happens with a question that no triple answers: base lets the base model answer it."
    ),
]

IndexOption = Annotated[
    Literal["auto", "exact", "tree", "ann"],
    typer.Option("--index", help="How the keys of a large KB are searched; auto: all of them while that is quick."),
]

FROM_BASE = "(from the base model, not from the knowledge base)"

_BAR_WIDTH = 20


@contextmanager
def model_and_kb(
    kb: Path,
    model: str,
    adapter: str | None,
    dtype: str | None,
    device: str | None,
    index: str,
    address: str | None = None,
    part: Part = Part(),
    busy: BusyCores | None = None,
) -> Iterator[tuple[KBLaM, KnowledgeBase | ShardedKB]]:
    """Open an existing knowledge base, or shards of one, then load a model; tell on stderr what takes long.

    Torch gets the cores that are free while the model is loaded; ``busy`` can look again later.

    Raises:
        ConfigurationError: a part is asked for of shards.
    """
    # A wrong path is told at once, not after the seconds that loading takes.
    with opened(kb, index, address) as whole:
        base = _part_of(whole, part, kb)

        busy = busy or BusyCores()
        busy.watch()
        tell_preparation(model)
        with new_console(stderr=True).status(f"loading {model}"):
            from kblam_engine.engine import KBLaM

            loaded = KBLaM.from_pretrained(model, adapter=adapter, dtype=dtype, device=device, index=index)
        leave_busy_cores(busy)
        if not len(base) and not part.is_all:
            say(f"no triple of {kb} fits these options; kblam kb list takes the same ones", err=True)
        elif not len(base):
            say(f"{kb} holds no triples yet: add some with kblam kb add or import", err=True)
        yield loaded, base


def leave_busy_cores(busy: BusyCores) -> None:
    """Give torch no more threads than there are cores left beside other programs, and say so."""
    told = busy.adjust()
    if told:
        say(told, err=True)


def opened(kb: Path, index: str, address: str | None) -> KnowledgeBase | ShardedKB:
    """Open what lies in a folder: a knowledge base, or shards.

    Raises:
        ConfigurationError: a cluster is given for what is no shards.
        KnowledgeBaseError: there is neither.
    """
    from kblam_engine.knowledge_base import KnowledgeBase
    from kblam_engine.knowledge_base.store import DATABASE

    if kb.is_dir() and not (kb / DATABASE).exists():
        from kblam_engine.cluster import is_sharded, open_shards

        if is_sharded(kb):
            return open_shards(kb, address=address, index=index)
    base = KnowledgeBase.open(kb, create=False)
    if address is not None:
        base.close()
        raise ConfigurationError(
            f"--address: expected a folder of shards, got {kb}, which is one knowledge base; make shards of its triples: "
            "kblam cluster build"
        )
    return base


def _part_of(whole: KnowledgeBase | ShardedKB, part: Part, kb: Path) -> KnowledgeBase | ShardedKB:
    from kblam_engine.knowledge_base import KnowledgeBase

    if isinstance(whole, KnowledgeBase):
        return part.view(whole)
    if not part.is_all:
        raise ConfigurationError(
            f"--namespace, --tag, --source, --at, --revision: expected one knowledge base, got {kb}, a folder of shards, "
            "which is asked as a whole; leave them out"
        )
    return whole


def show_attended(console: Console, answer: Answer) -> None:
    """Print the attended triples of an answer with bars for their weights, its confidence and its time."""
    from rich.table import Table

    if answer.attended:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(justify="right")
        table.add_column(overflow="fold")
        for attended in answer.attended:
            triple = attended.triple
            told = styled(f"{triple.name} | {triple.property} | ", "dim") + styled(triple.value) + styled(source(triple), "dim")
            table.add_row(bar(attended.weight), f"{attended.weight:.2f}", told)
        console.print(table)
    else:
        console.print("no triple attended", style="dim")
    console.print(styled(summary(answer), "dim"))


def source(triple: Triple) -> str:
    """Say in brackets where a triple was read, nothing where it does not say."""
    if triple.provenance is None:
        return ""
    page, span = triple.metadata.get("page"), triple.provenance.span
    parts = [triple.provenance.place, f"page {page}" if page else ""]
    parts += [f"characters {span[0]}-{span[1]}"] if span else []
    told = ", ".join(part for part in parts if part)
    return f" [{told}]" if told else ""


def from_base(answer: Answer) -> bool:
    """Tell whether a text is the base model's own, which a reader must not take for knowledge of the KB."""
    return bool(answer.text) and not answer.grounded and not answer.refused


def bar(weight: float) -> str:
    """Draw a weight from 0 to 1."""
    filled = round(_BAR_WIDTH * min(max(weight, 0.0), 1.0))
    return "█" * filled + "·" * (_BAR_WIDTH - filled)


def summary(answer: Answer) -> str:
    """Say in one line how sure an answer is and what it took."""
    parts: list[Any] = ["refused"] if answer.refused else ["from the base model"] if from_base(answer) else []
    parts.append(f"confidence {answer.confidence:.2f}")
    parts.append(f"first token {answer.ttft_ms:.0f} ms")
    if answer.usage.completion_tokens > 1:
        parts.append(f"{answer.ms_per_token:.0f} ms a token")
    parts.append(f"{answer.usage.completion_tokens} tokens")
    parts.append(f"{answer.usage.n_triples:,} {'triple' if answer.usage.n_triples == 1 else 'triples'}")
    if answer.finish_reason != "stop":
        parts.append("cut at --max-new-tokens" if answer.finish_reason == "length" else "stopped")
    return ", ".join(parts)

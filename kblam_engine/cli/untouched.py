"""`kblam untouched`: does a knowledge base leave chat alone that it has nothing to do with?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kblam_engine.cli._measuring import STDOUT, check_target, labels_of, load_model, progress_bar, write_json
from kblam_engine.cli._options import (
    DEFAULT_MODEL,
    AdapterOption,
    DeviceOption,
    DtypeOption,
    EncoderOption,
    JSONFileOption,
    ModelOption,
    a_threshold,
    as_usage,
)
from kblam_engine.cli._printing import new_console, styled

if TYPE_CHECKING:
    from kblam_engine.evaluation.untouched import ComparedAnswer, UntouchedResult
    from kblam_engine.knowledge_base import KnowledgeBase
    from kblam_engine.sentence_encoder import SentenceEncoder
    from kblam_engine.triples import Triple


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("untouched")(untouched)


def untouched(
    kb: Path = typer.Option(..., "--kb", help="A knowledge base, or a file of triples (.jsonl or .csv)."),
    model: ModelOption = DEFAULT_MODEL,
    adapter: AdapterOption = None,
    encoder: EncoderOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    refusal_threshold: float | None = typer.Option(
        None,
        "--refusal-threshold",
        callback=a_threshold,
        help="Confidence below which a triple does not answer; default: the adapter's.",
    ),
    max_new_tokens: int = typer.Option(64, "--max-new-tokens", min=1, help="Longest answer."),
    limit: int | None = typer.Option(
        None, "--limit", min=1, help="Only a sample of so many questions and so many passages."
    ),
    seed: int = typer.Option(
        0, "--seed", min=0, help="Chooses the sample under --limit, and the questions of --after-question."
    ),
    after_question: bool = typer.Option(
        False, "--after-question", help="Each follows a question about the KB and its answer."
    ),
    as_json: JSONFileOption = None,
) -> None:
    """See whether a KB leaves unrelated chat as it is.

    100 general questions are answered and 24 neutral passages read, each with the KB (--unknown base) and without.
    """
    check_target(as_json)
    from kblam_engine.evaluation.environment import describe
    from kblam_engine.evaluation.results import finite
    from kblam_engine.evaluation.untouched import FORMAT, UntouchedOptions, measure_untouched
    from kblam_engine.triple_files import read_triples

    # Mistakes in a file first: loading a model takes seconds.
    triples = None if kb.is_dir() else list(read_triples(kb))
    with as_usage():
        options = UntouchedOptions(max_new_tokens, refusal_threshold, limit, seed, after_question)
    loaded = load_model(model, adapter, encoder, dtype, device)
    with _opened(kb, triples, loaded.encoder) as base, progress_bar() as progress:
        result = measure_untouched(loaded, base, options, progress=progress)
    found: dict[str, Any] = {
        "format": FORMAT,
        **labels_of(loaded, model, adapter),
        "kb": str(kb),
        **describe(seed),
        **result.to_dict(),
    }
    write_json(as_json, finite(found))
    show(result, to_stderr=as_json == STDOUT)


@contextmanager
def _opened(path: Path, triples: list[Triple] | None, encoder: SentenceEncoder) -> Iterator[KnowledgeBase]:
    """Open a knowledge base, or put triples of a file into one in memory."""
    from kblam_engine.knowledge_base import KnowledgeBase

    if triples is None:
        with KnowledgeBase.open(path, create=False) as kb:
            yield kb
        return
    with KnowledgeBase.open(":memory:", encoder=encoder, multi=True) as kb:
        kb.add(triples)
        yield kb


def show(result: UntouchedResult, *, to_stderr: bool = False) -> None:
    """Print a row for each kind of question, both perplexities, and every answer that a triple opened for."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("questions", no_wrap=True)
    for heading in ("n", "unchanged", "a triple opened"):
        table.add_column(heading, justify="right")
    for kind, answers in {**result.kinds(), "all": result.answers}.items():
        n_unchanged, n_opened = sum(a.unchanged for a in answers), sum(bool(a.opened) for a in answers)
        table.add_row(styled(kind), str(len(answers)), str(n_unchanged), str(n_opened))
    console = new_console(stderr=to_stderr, highlight=False)
    console.print(table)
    n_tokens, n_opened = sum(p.n_tokens for p in result.passages), sum(bool(p.opened) for p in result.passages)
    console.print(
        f"perplexity of {len(result.passages)} passages ({n_tokens:,} tokens): "
        f"{result.perplexity_without:.4f} without, {result.perplexity:.4f} with the KB "
        f"({result.perplexity_change:+.2%}); a triple opened for {n_opened}"
    )
    console.print(f"{result.n_triples:,} triples, refusal threshold {result.refusal_threshold}")
    for answer in result.answers:
        if answer.opened:
            console.print(styled(_told(answer)))


def _told(answer: ComparedAnswer) -> str:
    triples = "; ".join(f"{t.name} | {t.property} | {t.value}" for t in answer.opened)
    return f"{'unchanged' if answer.unchanged else 'changed'}: {answer.question} <- {triples}"

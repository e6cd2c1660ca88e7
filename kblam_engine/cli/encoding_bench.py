"""`kblam bench encoding`: what the sentence encoder costs, by the thousand and for one question."""

from __future__ import annotations

import typer

from kblam_engine.cli._measuring import STDOUT, check_target, progress_bar, write_json
from kblam_engine.cli._options import JSONFileOption
from kblam_engine.cli._printing import new_console


def register(group: typer.Typer) -> None:
    """Add the command to `kblam bench`."""
    group.command("encoding")(encoding)


def encoding(
    triples: int = typer.Option(2_000, "--triples", min=1, help="Triples whose keys and values are encoded."),
    encoder: str | None = typer.Option(None, "--encoder", help="Sentence encoder; default: the embedded one."),
    seed: int = typer.Option(0, "--seed", help="Seed of the invented triples."),
    as_json: JSONFileOption = None,
) -> None:
    """Measure texts a second and the time of one question."""
    check_target(as_json)

    from kblam_engine.evaluation.encoding_bench import METHOD, bench_encoding
    from kblam_engine.evaluation.environment import describe
    from kblam_engine.sentence_encoder import load_sentence_encoder

    loaded = load_sentence_encoder() if encoder is None else load_sentence_encoder(encoder)
    with progress_bar() as progress:
        found = bench_encoding(loaded, triples, seed, progress)
    write_json(as_json, {"method": METHOD, **describe(seed), "results": [found.to_dict()]})
    console = new_console(stderr=as_json == STDOUT)
    console.print(
        f"{found.encoder}: {found.texts_per_cpu_s:,.0f} texts a second of one processor "
        f"({found.texts_per_s:,.0f} of the clock), a question {found.question_cpu_ms:.1f} ms "
        f"({found.question_ms:.1f} of the clock)",
        highlight=False,
    )

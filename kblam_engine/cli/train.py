"""`kblam train`: train an adapter for a base model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kblam_engine.cli._options import as_usage
from kblam_engine.cli._printing import new_console, print_exact, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from kblam_engine.training.config import TrainConfig
    from kblam_engine.training.stages import Report


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train")(train)


def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder the adapter is written to.")],
    model: Annotated[
        str, typer.Option(help="Base model: embedded name, local folder or Hugging Face id.")
    ] = ("smollm2-135m"),
    recipe: Annotated[str, typer.Option(help="fast (under 30 minutes on 2 cores), full, or smoke.")] = "fast",
    seed: Annotated[int, typer.Option(help="Seed of every draw.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of the native tokens.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Examples that the base model reads at once, over all processes.")
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Such batches per step, one after another: longer, not larger.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Of the frozen base model: float32, bfloat16 (where it is fast, the default), float16."),
    ] = None,
    sentence_steps: Annotated[
        int | None,
        typer.Option(min=0, help="Optimiser steps of sentence tokens, after the rest; 0: the adapter has none."),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Graph, KB or file of triples of your own, to be asked about in training; repeatable."),
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(
            help="How often each kind of question is asked when answers are trained, as simple=4,open_ended=0; kinds that "
            "are not named keep their weight. Default: unanswerable=2,simple=4,follow_up=2,multi_entity=4,chain=2,open_ended=6."
        ),
    ] = None,
    exclude_names: Annotated[
        list[Path] | None,
        typer.Option(help="KB or file of triples whose names, in any case, are kept out of the training data; repeatable."),
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option(min=1, help="Optimiser steps between two checkpoints, from which a run goes on.")
    ] = 50,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder that loss and validation are written to for TensorBoard.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what the run would take, and train nothing.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train an adapter; the base model stays frozen.

    First the evidence head, then the native tokens. The best adapter on held-out samples is written. What was
    finished is kept in OUTPUT.stages: the same command goes on where a run was cut off. Several processes or GPUs:
    torchrun --nproc-per-node N -m kblam_engine train ...
    """
    import json

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from kblam_engine.training.config import recipe as named_recipe
    from kblam_engine.training.distributed import is_main
    from kblam_engine.training.left_out import names_in
    from kblam_engine.training.recipe import train as run

    names = frozenset(name for path in exclude_names or () for name in names_in(path))
    with as_usage():
        config = named_recipe(
            recipe,
            model=model,
            dtype=dtype,
            seed=seed,
            native_steps=steps,
            batch=batch,
            accumulate=accumulate,
            exclude_names=names,
            sentence_steps=sentence_steps,
            data=tuple(map(str, data or ())),
            answer_kinds=_kinds(kinds),
        )
    if dry_run:
        _tell_estimate(config, json_output)
        return
    output.mkdir(parents=True, exist_ok=True)  # a place that cannot be written is told now, not after the run
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = new_console(stderr=True, quiet=not is_main())
    with Progress(*columns, TextColumn("{task.fields[numbers]}"), console=console) as progress:
        report = _with_curves(_Reporter(progress), tensorboard)
        result = run(config, output, report, checkpoint_every=checkpoint_every)
    if not is_main():
        return
    if json_output:
        summary = {
            "folder": str(result.folder),
            "validation_loss": result.validation_loss,
            "evidence": result.evidence,
            "seconds": result.seconds,
        }
        if result.sentence_loss is not None:
            summary["sentence_validation_loss"] = result.sentence_loss
        print_exact(json.dumps(summary, indent=2))
    else:
        say(
            f"adapter written to {result.folder} in {result.seconds / 60:.1f} minutes; "
            f"validation loss {result.validation_loss:.3f}"
        )


def _kinds(text: str | None) -> tuple[tuple[str, float], ...] | None:
    """Return the default weights with those that a text names; None without a text."""
    from kblam_engine.training.config import ANSWER_KINDS

    if text is None:
        return None
    weights = dict(ANSWER_KINDS)
    for part in text.split(","):
        kind, _, weight = (piece.strip() for piece in part.partition("="))
        try:
            weights[kind] = float(weight)
        except ValueError:
            message = f"expected pairs such as simple=4, got {part.strip()!r}"
            raise typer.BadParameter(message, param_hint="--kinds") from None
    return tuple(weights.items())


def _tell_estimate(config: TrainConfig, json_output: bool) -> None:
    import json

    from kblam_engine.training.distributed import is_main
    from kblam_engine.training.estimate import estimate

    found = estimate(config)
    if not is_main():
        return
    if json_output:
        print_exact(json.dumps(found.to_dict(), indent=2))
        return
    lines = [f"{n:>14,}  {part}" for part, n in found.parameters.items()]
    say("\n".join(["parameters of the adapter", *lines, f"{sum(found.parameters.values()):>14,}  in all"]))
    say(f"adapter on disk  {found.adapter_bytes / 1e6:.1f} MB")
    for where, megabytes in (("peak memory", found.memory_mb), ("on the accelerator", found.device_memory_mb)):
        if megabytes is not None:
            say(f"{where}  about {megabytes / 1024:.1f} GiB")
    lines = [f"{seconds / 60:>10.1f} min  {part}" for part, seconds in found.seconds.items()]
    total = sum(found.seconds.values()) / 60
    say("\n".join(["time on this machine as busy as it is now", *lines, f"{total:>10.1f} min  in all"]))
    if config.sources or config.data:
        say(f"besides: reading the real triples of {', '.join((*config.data, *config.sources))}")


def _with_curves(shown: Report, folder: Path | None) -> Report:
    """Return a report that also writes for TensorBoard, if there is a folder."""
    if folder is None:
        return shown
    from kblam_engine.training.tensorboard import TensorBoard

    curves = TensorBoard(folder)

    def report(stage: str, done: int, total: int, numbers: dict[str, float]) -> None:
        shown(stage, done, total, numbers)
        curves(stage, done, total, numbers)

    return report


class _Reporter:
    """Shows one bar per stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, numbers: dict[str, float]) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total, numbers="")
        self._progress.update(self._tasks[stage], completed=done, total=total)
        if numbers:
            shown = "  ".join(f"{k} {v:.3f}" for k, v in numbers.items())
            self._progress.update(self._tasks[stage], numbers=shown)

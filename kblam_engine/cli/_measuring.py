"""What `kblam eval`, `kblam bench` and `kblam report` share: a model, a progress bar on stderr, files to write."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kblam_engine.cli._printing import new_console, print_exact

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from kblam_engine.engine import KBLaM

STDOUT = Path("-")
_WIDE = 200


def load_model(
    model: str, adapter: str | None, encoder: str | None, dtype: str | None, device: str | None, index: str = "auto"
) -> KBLaM:
    """Load the model a measurement is about."""
    from kblam_engine.engine import KBLaM

    return KBLaM.from_pretrained(model, adapter=adapter, encoder=encoder, dtype=dtype, device=device, index=index)


def labels_of(loaded: KBLaM, model: str, adapter: str | None) -> dict[str, Any]:
    """Return what a result says of the model it is about.

    Args:
        loaded: the model.
        model: what `--model` named.
        adapter: what `--adapter` named; None: the one shipped.
    """
    return {
        "model": model,
        "adapter": adapter,
        "encoder": loaded.encoder.fingerprint,
        "dtype": str(loaded.lm.dtype).removeprefix("torch."),
        "device": str(loaded.lm.device),
    }


def check_target(target: Path | None) -> None:
    """Refuse a place for the result that cannot be written, before the work and not after it."""
    if target is None or target == STDOUT:
        return
    if target.is_dir():
        raise IsADirectoryError(
            errno.EISDIR, "expected a file to write the result to, got a folder", str(target)
        )
    folder = target.parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the folder for the result does not exist", str(folder))
    # In a folder that takes no new file, one that is there can be written in place.
    if not os.access(folder, os.W_OK) and not (target.exists() and os.access(target, os.W_OK)):
        raise PermissionError(errno.EACCES, "the result cannot be written there", str(target))


def write_json(target: Path | None, data: dict[str, Any]) -> None:
    """Write an object as JSON: to stdout for "-", else to a file that is replaced whole."""
    if target is None:
        return
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    if target == STDOUT:
        print_exact(text)
        return
    write_text(target, text + "\n")


def write_text(target: Path, text: str) -> None:
    """Write a file that is replaced whole, so that nobody reads half of it; in place where its folder takes no new file."""
    # A pipe or /dev/null takes no rename.
    if target.exists() and (not target.is_file() or not os.access(target.parent, os.W_OK)):
        target.write_text(text, encoding="utf-8")
        return
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def table_console(*, to_stderr: bool = False) -> Console:
    """Return where tables go: in a pipe, a log or CI they are as wide as they need, for nobody can widen those."""
    console = new_console(stderr=to_stderr)
    return console if console.is_terminal else new_console(stderr=to_stderr, width=_WIDE)


def cell(value: float | None, digits: int) -> str:
    """Return a number for a table; "-" for none."""
    return "-" if value is None else f"{value:.{digits}f}"


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show one bar on stderr for each task named in the calls, only where stderr is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = new_console(stderr=True)
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    tasks: dict[str, Any] = {}

    def told(what: str, done: int, total: int) -> None:
        # Started late: the sentence encoder shows a bar of its own before the first question.
        bar.start()
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done, total=total)

    try:
        yield told
    finally:
        bar.stop()

"""The `kblam` command: parse, call, show. Commands import what they need when they run.

A user's mistake becomes one line on stderr and an exit code: 2 for a command line that is wrong whatever there is on the
disk, 1 for everything else that went wrong, 130 for Ctrl-C, 141 where nobody reads the output any more.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import typer

from kblam_engine import __version__
from kblam_engine.cli._printing import OUTPUT_CLOSED, reader_is_gone, say, say_error, tame_warnings
from kblam_engine.errors import KBLaMError

# Order of the help text. Each module has `register(app)`.
_MODULES = ("ask", "chat", "kb", "models", "train", "eval", "untouched", "report", "bench", "plan", "cluster")


def _show_version(value: bool) -> None:
    if value:
        say(f"kblam {__version__}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Answer questions from a knowledge base inside a local model's attention."""


@cache
def build_app() -> typer.Typer:
    """Assemble the command line from its modules, once."""
    # Plain help: boxes leave the longer option names no room for what they mean.
    app = typer.Typer(
        name="kblam",
        callback=_root,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for name in _MODULES:
        import_module(f"{__name__}.{name}").register(app)
    return app


@cache
def _command() -> Any:
    """Return the command line as what runs it: typer reads the signatures of all commands, which takes a tenth of a second."""
    return typer.main.get_command(build_app())


def describe_os_error(error: OSError) -> str:
    """Say in one line what the operating system refused."""
    path = f": {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"no space left on the disk{path}; free some and run the command again"
    return f"{error.strerror or error}{path}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line on `argv` (default: the process's arguments) and exit with its code."""
    tame_warnings()
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        # Not by the command's own `main`, which draws boxes of several lines, and exits with 1 where a pipe is closed.
        with _command().make_context("kblam", arguments) as context:
            _command().invoke(context)
        sys.stdout.flush()
    except typer.Exit as done:
        code = done.exit_code
    except typer.exceptions.TyperException as error:
        code = _told(_describe_usage_error(error), 2)
    except (KeyboardInterrupt, EOFError, typer.Abort):
        code = _told("interrupted", 130)
    except KBLaMError as error:
        code = _told(error, 1)
    except OSError as error:
        gone = isinstance(error, BrokenPipeError) and reader_is_gone()
        code = OUTPUT_CLOSED if gone else _told(describe_os_error(error), 1)
    else:
        code = 0
    sys.exit(code)


def _describe_usage_error(error: Exception) -> str:
    format_message = getattr(error, "format_message", error.__str__)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "kblam"
    return f"{format_message()} (see `{command} --help`)"


def _told(error: object, code: int) -> int:
    say_error(error)
    return code

"""The `kblam` command: parse, call, show. Commands import what they need when they run.

A user's mistake becomes one line on stderr and an exit code: 1 for what went wrong, 2 for wrong usage,
130 for Ctrl-C.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module

import typer

from kblam_engine import __version__
from kblam_engine.errors import KBLaMError

# Order of the help text. Each module has `register(app)`.
_MODULES = ("ask", "chat", "kb", "models", "train", "eval", "untouched", "report", "bench", "plan", "cluster")


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"kblam {__version__}")
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
def _command() -> Callable[..., object]:
    """Return the command line as what runs it: typer reads the signatures of all commands, which takes a tenth of a second."""
    command: Callable[..., object] = typer.main.get_command(build_app())
    return command


def describe_os_error(error: OSError) -> str:
    """Say in one line what the operating system refused."""
    path = f": {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"no space left on the disk{path}; free some and run the command again"
    return f"{error.strerror or error}{path}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line on `argv` (default: the process's arguments) and exit with its code."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        # Outside standalone mode typer raises usage errors instead of drawing a box of several lines.
        code = _command()(args=arguments, prog_name="kblam", standalone_mode=False)
    except typer.exceptions.TyperException as error:
        _fail(_describe_usage_error(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except KBLaMError as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(describe_os_error(error), 1)
    else:
        if code == 130:  # typer's own handling of Ctrl-C is silent
            _fail("interrupted", 130)
        sys.exit(code if isinstance(code, int) else 0)


def _describe_usage_error(error: Exception) -> str:
    format_message = getattr(error, "format_message", error.__str__)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "kblam"
    return f"{format_message()} (see `{command} --help`)"


def _fail(message: str, code: int) -> None:
    typer.echo(f"kblam: {' '.join(message.split())}", err=True)
    sys.exit(code)

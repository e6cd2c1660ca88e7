"""The `kblam` command: parse, call, show. Commands import what they need when they run.

User mistakes become one line on stderr and an exit code: 1 for what went wrong, 2 for wrong usage, 130 for Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from importlib.util import find_spec

import typer

from kblam_engine import __version__
from kblam_engine.errors import KBLaMError

# Order of the help text. Each module has `register(app)`.
_MODULES = ("ask", "chat", "kb", "models", "train", "eval", "bench")


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


def build_app() -> typer.Typer:
    """Assemble the command line from its modules."""
    app = typer.Typer(
        name="kblam", callback=_root, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    for name in _MODULES:
        if find_spec(f"{__name__}.{name}") is not None:
            import_module(f"{__name__}.{name}").register(app)
    return app


def describe_os_error(error: OSError) -> str:
    """Say in one line what the operating system refused."""
    path = f": {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"no space left on the disk{path}; free some and run the command again"
    return f"{error.strerror or error}{path}"


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        build_app()()
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of a pipe (`| head`) went away: keep the interpreter from failing again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KBLaMError as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(describe_os_error(error), 1)


def _fail(message: str, code: int) -> None:
    typer.echo(f"kblam: {' '.join(message.split())}", err=True)
    sys.exit(code)

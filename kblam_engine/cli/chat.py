"""`kblam chat`: a conversation with a knowledge base that can be changed while it goes on."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from kblam_engine.cli._answering import (
    FROM_BASE,
    AddressOption,
    HopsOption,
    IndexOption,
    KBOption,
    MaxNewTokensOption,
    SeedOption,
    TemperatureOption,
    ThresholdOption,
    UnknownOption,
    from_base,
    leave_busy_cores,
    model_and_kb,
    show_attended,
)
from kblam_engine.cli._options import DEFAULT_MODEL, AdapterOption, DeviceOption, DtypeOption, ModelOption
from kblam_engine.cli._printing import new_console, say, say_error
from kblam_engine.cli.kb_common import (
    AtOption,
    NamespaceOption,
    Part,
    RevisionOption,
    SourceOption,
    TagOption,
    as_known,
    many,
)
from kblam_engine.errors import ConfigurationError, KBLaMError, ReadOnlyError
from kblam_engine.threads import BusyCores

if TYPE_CHECKING:
    from kblam_engine.answers import Answer
    from kblam_engine.cluster import ShardedKB
    from kblam_engine.engine import KBLaM
    from kblam_engine.knowledge_base import KnowledgeBase

_HELP = """\
/add NAME | PROPERTY | VALUE      add a triple (replaces the value, unless the KB keeps several)
/set NAME | PROPERTY | VALUE      make this the only value
/remove NAME [| PROPERTY [| VALUE]]
/show                             what the last answer attended
/kb                               size of the knowledge base
/unknown refuse|base              what happens with questions that no triple answers, as --unknown
/forget                           start a new conversation
/quit                             leave, as Ctrl-D does; Ctrl-C stops an answer"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("chat")(chat)


def chat(
    kb: KBOption,
    model: ModelOption = DEFAULT_MODEL,
    adapter: AdapterOption = None,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    max_new_tokens: MaxNewTokensOption = 256,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = None,
    refusal_threshold: ThresholdOption = None,
    max_hops: HopsOption = 1,
    unknown: UnknownOption = "refuse",
    index: IndexOption = "auto",
    address: AddressOption = None,
    namespace: NamespaceOption = None,
    tag: TagOption = None,
    source: SourceOption = None,
    at: AtOption = None,
    revision: RevisionOption = None,
) -> None:
    """Talk with a knowledge base, and change it on the way.

    A line is a question, or a command such as /add; /help lists them. With --namespace, --tag, --source, --at or
    --revision the model sees only that part of it, which cannot be changed from here.
    """
    options = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        "refusal_threshold": refusal_threshold,
        "max_hops": max_hops,
        "unknown": unknown,
    }
    part = Part.of(namespace, tag, source, at, revision)
    busy = BusyCores()
    with model_and_kb(kb, model, adapter, dtype, device, index, address, part, busy) as (loaded, base):
        conversation = Conversation(loaded, base, options)
        if sys.stdin.isatty():
            say(f"{many(len(base), 'triple')}; /help for help, Ctrl-D to leave", err=True)
        for line in _lines():
            busy.watch()
            is_read = bool(line.strip()) and not sys.stdin.isatty()
            if is_read:  # what is typed at a terminal is there already
                say(f"> {line.strip()}")
            try:
                if conversation.take(line):
                    break
                leave_busy_cores(busy)  # for the next answer: what else runs now is seen beside this one
            except BrokenPipeError:  # nobody reads any more
                raise
            except (KBLaMError, OSError) as error:
                # A mistake in one line ends that line, not the conversation.
                say_error(error)
            if is_read:
                say()


class Conversation:
    """The messages so far, the last answer, and the commands that a line can hold."""

    def __init__(self, model: KBLaM, kb: KnowledgeBase | ShardedKB, options: dict[str, Any]) -> None:
        self.messages: list[dict[str, str]] = []
        self.last: Answer | None = None
        self._model = model
        self._kb = kb
        self._options = options
        self._commands: dict[str, Callable[[str], None]] = {
            "/add": self._add,
            "/set": self._set,
            "/remove": self._remove,
            "/show": self._show,
            "/kb": self._describe_kb,
            "/unknown": self._set_unknown,
            "/forget": self._forget,
            "/help": lambda rest: say(_HELP),
        }

    def take(self, line: str) -> bool:
        """Answer a question or obey a command; return whether it was the one to leave."""
        line = line.strip()
        if not line.startswith("/"):
            if line:
                self._answer(line)
            return False
        command, _, rest = line.partition(" ")
        if command in ("/quit", "/exit"):
            return True
        if command not in self._commands:
            raise ConfigurationError(f"unknown command {command}; /help lists what there is")
        self._commands[command](rest.strip())
        return False

    def _answer(self, question: str) -> None:
        messages = [*self.messages, {"role": "user", "content": question}]
        with _stopped_by_ctrl_c() as cancel:
            stream = self._model.stream(messages, kb=self._kb, cancel=cancel, **self._options)
            try:
                for piece in stream:
                    say(piece, nl=False)
                    sys.stdout.flush()
            finally:
                say()
        self.last = stream.answer
        if from_base(self.last):
            say(FROM_BASE)
        # Kept only now: a question that failed is not part of the conversation.
        self.messages = [*messages, {"role": "assistant", "content": self.last.text}]

    def _add(self, rest: str) -> None:
        from kblam_engine.triples import Triple

        name, prop, value = _parts(rest, 3, 3)
        base = self._to_change()
        triple = as_known(base, Triple(name, prop, value))
        result = base.add([triple])
        done = "added" if result.added else "replaced" if result.replaced else "unchanged"
        say(f"{done}: {triple.statement}")

    def _set(self, rest: str) -> None:
        from kblam_engine.triples import Triple

        name, prop, value = _parts(rest, 3, 3)
        triple = Triple(name, prop, value)
        kb = self._to_change()
        before = [known.value for known in kb.get_all(triple.name, triple.property)]
        kb.set(triple.name, triple.property, triple.value)
        say(f"{' | '.join(before) or 'nothing'} -> {triple.value}")

    def _remove(self, rest: str) -> None:
        parts = _parts(rest, 1, 3)
        count = self._to_change().remove(*parts)
        if not count:
            raise ConfigurationError(f"no triple matches ({', '.join(parts)})")
        say(f"removed {count}")

    def _show(self, rest: str) -> None:
        if self.last is None:
            raise ConfigurationError("nothing has been answered yet")

        show_attended(new_console(highlight=False), self.last)

    def _to_change(self) -> KnowledgeBase:
        """Return the knowledge base.

        Raises:
            ReadOnlyError: it lies in shards, or the conversation is with a part of it.
        """
        from kblam_engine.knowledge_base import KnowledgeBase
        from kblam_engine.knowledge_base.view import KBView

        if not isinstance(self._kb, KnowledgeBase):
            raise ReadOnlyError(
                f"{self._kb.path}: shards are for reading; change the files of triples and run kblam cluster build again"
            )
        if isinstance(self._kb, KBView):
            raise ReadOnlyError(
                f"{self._kb.path}: this conversation is with a part of it, for reading; change it with kblam kb, or start "
                "kblam chat without --namespace, --tag, --source, --at and --revision"
            )
        return self._kb

    def _describe_kb(self, rest: str) -> None:
        from kblam_engine.knowledge_base import KnowledgeBase

        if not isinstance(self._kb, KnowledgeBase):
            n_shards, n_properties = len(self._kb.manifest.shards), len(self._kb.properties)
            say(
                f"{self._kb.path}: {many(len(self._kb), 'triple')}, {many(n_properties, 'property', 'properties')}, "
                f"{many(n_shards, 'shard')}"
            )
            return
        info = self._kb.info()
        say(
            f"{info.path}: {many(info.n_triples, 'triple')}, {many(info.n_names, 'name')}, "
            f"{many(info.n_properties, 'property', 'properties')}, revision {info.revision}"
        )

    def _set_unknown(self, rest: str) -> None:
        if rest not in ("refuse", "base"):
            raise ConfigurationError(f"expected /unknown refuse or /unknown base, got {rest or 'nothing'}")
        self._options["unknown"] = rest
        say("such questions are refused" if rest == "refuse" else "the base model answers such questions")

    def _forget(self, rest: str) -> None:
        self.messages, self.last = [], None
        say("a new conversation")


def _parts(rest: str, least: int, most: int) -> list[str]:
    """Split what follows a command at bars; a value may contain bars of its own."""
    parts = [part.strip() for part in rest.split("|", most - 1)]
    if len(parts) < least or not all(parts):
        wanted = "NAME | PROPERTY | VALUE" if least == 3 else "NAME [| PROPERTY [| VALUE]]"
        raise ConfigurationError(f"expected {wanted}, got {rest or 'nothing'}")
    return parts


def _lines() -> Iterator[str]:
    """Yield what is typed, until Ctrl-D; Ctrl-C drops the line."""
    interactive = sys.stdin.isatty()
    if interactive:
        _line_editing()
    while True:
        try:
            yield input("> " if interactive else "")
        except EOFError:
            if interactive:
                say()
            return
        except KeyboardInterrupt:
            if not interactive:
                raise
            say("\nCtrl-D leaves")


def _line_editing() -> None:
    try:
        import readline  # noqa: F401  # its import gives input() line editing and history
    except ImportError:  # Windows has none
        pass


@contextmanager
def _stopped_by_ctrl_c() -> Iterator[threading.Event]:
    """Turn Ctrl-C into an event while an answer is written; a second one interrupts at once."""
    cancel = threading.Event()

    def stop(number: int, frame: object) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield cancel
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, before)

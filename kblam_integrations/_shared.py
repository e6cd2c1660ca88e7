"""What the bridges have in common: knowledge bases from what users hold, shared engines, knowledge bases by id.

Knows no framework: graphs and graph documents are told by their shape.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from kblam_engine.errors import ConfigurationError, KnowledgeBaseError, ModelNotFoundError
from kblam_engine.sources import open_source
from kblam_engine.sources.registry import can_open
from kblam_engine.triples import Triple

if TYPE_CHECKING:
    from kblam_engine.engine import KBLaM
    from kblam_engine.knowledge_base import KBSnapshot, KnowledgeBase
    from kblam_engine.sentence_encoder import SentenceEncoder

__all__ = ["EngineConfig", "KBRegistry", "as_knowledge_base", "release_engines", "triples_of"]

_ACCEPTED = (
    "a KnowledgeBase, its directory, a file that kblam_engine.sources reads, a networkx graph, graph documents, or triples "
    "(Triple, three texts, or mappings)"
)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Which engine: the arguments of ``KBLaM.from_pretrained``. Equal configurations share one loaded engine.

    Attributes:
        model: an embedded model's name, a local folder, or a Hugging Face id.
        adapter: an adapter folder; None takes the one that ships for the model.
        encoder: sentence encoder; None takes the adapter's own.
        dtype: None takes what the hardware computes fastest.
        device: None takes a GPU where there is one.
    """

    model: str = "smollm2-135m"
    adapter: str | None = None
    encoder: str | None = None
    dtype: str | None = None
    device: str | None = None

    def engine(self) -> KBLaM:
        """Return the engine; the first call of any thread loads it, the others wait for that.

        Raises:
            ModelNotFoundError: there is no such model, or no adapter ships for it.
            CheckpointError: the adapter is for another model, encoder or version.
        """
        with _engines_lock:
            lock = _loading.setdefault(self, threading.Lock())
        with lock:  # one lock a configuration: a second model does not wait for the first
            if self not in _engines:
                from kblam_engine.engine import KBLaM

                _loaded_digests[self] = self._digest_of_folder()
                _engines[self] = KBLaM.from_pretrained(
                    self.model, adapter=self.adapter, encoder=self.encoder, dtype=self.dtype, device=self.device
                )
            return _engines[self]

    def loaded(self) -> KBLaM | None:
        """Return the engine if it is there already."""
        return _engines.get(self)

    def adapter_digest(self) -> str | None:
        """Return what tells this adapter from others by its content, for the keys of caches; loads nothing.

        Of a loaded engine, it is the digest of what was loaded, whatever has been written into the folder since. None: there
        is no adapter, which is an error as soon as the engine is asked for.
        """
        return _loaded_digests[self] if self in _engines else self._digest_of_folder()

    def _digest_of_folder(self) -> str | None:
        from kblam_engine.checkpoint import CONFIG, WEIGHTS, shipped_adapter

        try:
            folder = Path(self.adapter) if self.adapter is not None else shipped_adapter(self.model)
            return _digest_of_files(tuple(_state_of(folder / name) for name in (CONFIG, WEIGHTS)))
        except (ModelNotFoundError, OSError):
            return None

    def sentence_encoder(self) -> SentenceEncoder:
        """Return the sentence encoder that the engine uses or will use, without loading the base model."""
        from kblam_engine.sentence_encoder import load_sentence_encoder

        if self in _engines:
            return _engines[self].encoder
        if self.encoder is not None:
            return load_sentence_encoder(self.encoder)
        from kblam_engine.checkpoint import read_config, shipped_adapter

        folder = Path(self.adapter) if self.adapter is not None else shipped_adapter(self.model)
        return load_sentence_encoder(read_config(folder).encoder)


@dataclass(frozen=True, slots=True)
class _FileState:
    """A file as it is now: when it changes, so does this."""

    path: Path
    size: int
    changed_ns: int


def _state_of(path: Path) -> _FileState:
    found = path.stat()
    return _FileState(path.resolve(), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest_of_files(files: tuple[_FileState, ...]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.path.read_bytes()).digest())
    return digest.hexdigest()[:16]


_engines: dict[EngineConfig, KBLaM] = {}
_loaded_digests: dict[EngineConfig, str | None] = {}
_loading: dict[EngineConfig, threading.Lock] = {}
_engines_lock = threading.Lock()


def release_engines(config: EngineConfig | None = None) -> int:
    """Forget one shared engine, or all of them; return how many. Objects that use one keep it."""
    with _engines_lock:
        chosen = list(_engines) if config is None else [config]
        return sum(_engines.pop(each, None) is not None for each in chosen)


class KBRegistry:
    """Knowledge bases by id, for calls that name theirs: ``kb_id="tenant-7"``. Safe to share between threads.

    Directories are opened when they are first asked for, and then kept, and opened again if somebody has closed them;
    anything else is embedded at once.

    Example:
        .. code-block:: python

            from kblam_integrations.langchain import ChatKBLaM, KBRegistry

            registry = KBRegistry({"north": [("depot", "foreman", "Ada")], "south": [("depot", "foreman", "Piet")]})
            print(ChatKBLaM(kbs=registry).invoke("Who is the foreman of the depot?", kb_id="south").text)

    Raises:
        ConfigurationError: an id is no text, a source holds no triples, or `get` is asked for an id that is not there.
        KnowledgeBaseNotFoundError: `get` finds none in the directory that was registered.
    """

    def __init__(self, sources: Mapping[str, Any] | None = None, *, encoder: Any = None) -> None:
        """Register knowledge bases.

        Args:
            sources: by id, a KnowledgeBase, its directory, a file, a graph, graph documents, or triples.
            encoder: embeds what is not embedded yet; None: the default.

        Raises:
            ConfigurationError: `sources` is no mapping, an id is no text, or a source holds no triples.
        """
        if sources is not None and not isinstance(sources, Mapping):
            raise ConfigurationError(f"kbs: expected a mapping from ids to knowledge bases, got {type(sources).__name__}")
        self._registered: dict[str, Any] = {}  # a directory stays its path, so that it can be opened again
        self._kept: dict[str, KnowledgeBase | KBSnapshot] = {}
        self._encoder = encoder
        self._lock = threading.Lock()
        for kb_id, source in (sources or {}).items():
            self.register(kb_id, source)

    def register(self, kb_id: str, source: Any) -> None:
        """Give a knowledge base an id; one that had the id is replaced.

        Raises:
            ConfigurationError: the id is no text, or empty, or the source holds no triples.
        """
        if not isinstance(kb_id, str) or not kb_id:
            raise ConfigurationError(f"kb_id: expected a text, got {kb_id!r}")
        if _is_directory_name(source):
            source = Path(source).expanduser().absolute()  # the same one, whatever folder a later call comes from
        else:
            source = as_knowledge_base(source, encoder=self._encoder)
        with self._lock:
            self._registered[kb_id] = source
            self._kept.pop(kb_id, None)

    def remove(self, kb_id: str) -> None:
        """Forget an id; an unknown one is fine. The knowledge base stays as it is."""
        with self._lock:
            self._registered.pop(kb_id, None)
            self._kept.pop(kb_id, None)

    def get(self, kb_id: str) -> KnowledgeBase | KBSnapshot:
        """Return the knowledge base with an id.

        Raises:
            ConfigurationError: there is none; the message does not name the others, which may be other tenants'.
            KnowledgeBaseNotFoundError: there is none in the directory that was registered.
        """
        with self._lock:
            if kb_id not in self._registered:
                raise ConfigurationError(
                    f"kb_id: no knowledge base is registered as {kb_id!r} ({len(self)} others are): register it first"
                )
            kb = self._kept[kb_id] = as_knowledge_base(self._registered[kb_id])
        return kb

    def __contains__(self, kb_id: object) -> bool:
        return kb_id in self._registered

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._registered))

    def __len__(self) -> int:
        return len(self._registered)

    def __repr__(self) -> str:
        return f"KBRegistry({len(self)} knowledge bases)"


def as_knowledge_base(source: Any, *, encoder: Any = None) -> KnowledgeBase | KBSnapshot:
    """Return the knowledge base that `source` is, lies at, or describes.

    A knowledge base or a snapshot is returned as it is. The directory of one is opened, once for each process as
    long as somebody uses it. Anything else becomes a new knowledge base in memory.

    Args:
        source: a KnowledgeBase, its snapshot or directory; a file, graph, graph documents or triples (see
            ``triples_of``).
        encoder: a sentence encoder or the name of one, or a function that returns one, called only if something
            has to be embedded; None: the knowledge base's own, or the default.

    Raises:
        KnowledgeBaseNotFoundError: there is no knowledge base at the path.
        EncoderMismatchError: the one at the path was made with another encoder.
        ConfigurationError: it is nothing that holds triples.
    """
    from kblam_engine.knowledge_base import KBSnapshot, KnowledgeBase

    if isinstance(source, KnowledgeBase | KBSnapshot):
        return source
    if _is_directory_name(source):
        return _opened_once(Path(source))
    triples = triples_of(source)  # read by `add`: a graph of a million edges is no list before
    chosen = encoder() if callable(encoder) else encoder
    kb = KnowledgeBase.open(":memory:", encoder=chosen, multi=True)
    kb.add(triples)
    return kb


def _is_directory_name(source: Any) -> bool:
    return isinstance(source, str | os.PathLike) and (Path(source).is_dir() or not can_open(Path(source)))


_open_kbs: WeakValueDictionary[Path, KnowledgeBase] = WeakValueDictionary()
_open_kbs_lock = threading.Lock()


def _opened_once(path: Path) -> KnowledgeBase:
    from kblam_engine.knowledge_base import KnowledgeBase

    key = path.expanduser().resolve()
    with _open_kbs_lock:
        kb = _open_kbs.get(key)
        if kb is None or _is_closed(kb):
            kb = _open_kbs[key] = KnowledgeBase.open(key, create=False)
        return kb


def _is_closed(kb: KnowledgeBase) -> bool:
    try:
        return kb.revision < 0
    except KnowledgeBaseError:  # its owner closed it, or its files are gone: opening again says which
        return True


def triples_of(source: Any) -> Iterator[Triple]:
    """Yield the triples of a file, a graph, graph documents, or an iterable of triples.

    Args:
        source: a file that ``kblam_engine.sources`` reads; a knowledge base or its snapshot; an object with networkx's ``edges()`` and ``is_directed()``; an object
            with ``nodes`` and ``relationships`` (a GraphDocument) or several; or an iterable of ``Triple``, of
            (name, property, value) texts, or of mappings with these keys.

    Raises:
        ConfigurationError: it is none of these; the message names the type.
        TripleError: one of the triples is not usable.
        ImportFileError: a line of the file is wrong.
    """
    from kblam_engine.knowledge_base import KBSnapshot

    if isinstance(source, str | os.PathLike):
        yield from open_source(source)
    elif isinstance(source, KBSnapshot):
        yield from source.triples(range(len(source)))
    elif callable(getattr(source, "edges", None)) and callable(getattr(source, "is_directed", None)):
        from kblam_integrations.networkx import triples_from_graph

        yield from triples_from_graph(source)
    elif is_graph_document(source):
        from kblam_integrations._graph_documents import triples_from_graph_document

        yield from triples_from_graph_document(source)
    elif isinstance(source, Iterable) and not isinstance(source, Mapping | bytes):
        for number, item in enumerate(source):
            yield from _triples_of_item(item, number)
    else:
        raise ConfigurationError(f"kb: expected {_ACCEPTED}; got {type(source).__name__}")


def is_graph_document(thing: Any) -> bool:
    """Return whether something has the shape of a GraphDocument: lists of nodes and of relationships."""
    parts = (getattr(thing, "nodes", None), getattr(thing, "relationships", None))
    return all(isinstance(part, list | tuple) for part in parts)


def _triples_of_item(item: Any, number: int) -> Iterator[Triple]:
    if isinstance(item, Triple):
        yield item
    elif isinstance(item, Mapping):
        yield Triple.from_dict(item)
    elif isinstance(item, list | tuple) and len(item) == 3:
        yield Triple(*item)
    elif is_graph_document(item):
        yield from triples_of(item)
    else:
        raise ConfigurationError(f"kb: expected {_ACCEPTED}; item {number} is of type {type(item).__name__}")

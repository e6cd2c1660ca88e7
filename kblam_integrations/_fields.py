"""Which engine, which knowledge base, and how to answer: fields that the bridges' pydantic models share."""

from __future__ import annotations

import hashlib
from typing import Any, Literal, Self
from weakref import WeakKeyDictionary

from pydantic import BaseModel, Field, model_validator

from kblam_engine import __version__
from kblam_engine.engine import KBLaM
from kblam_engine.errors import ConfigurationError
from kblam_engine.knowledge_base import KBSnapshot, KnowledgeBase
from kblam_integrations._shared import EngineConfig, KBRegistry, as_knowledge_base, release_engines

NOT_TEXT = ("engine", "kb", "kbs")
"""Fields that hold what cannot leave a process: a model, open knowledge bases."""

NO_TOOL_CALLS = (
    "this model calls no tools: leave messages with tool calls out, or pass what the tools found as text in a user's message"
)


class EngineFields(BaseModel):
    """An engine, given or by its name, and the knowledge base that it answers from.

    Each field is described where people look: `ChatKBLaM`, the retriever, `KBLaMLLM`; a test compares. After construction `kb` is
    always the knowledge base itself.
    """

    model: str = "smollm2-135m"
    adapter: str | None = None
    encoder: str | None = None
    dtype: str | None = None
    device: str | None = None
    engine: Any = Field(default=None, exclude=True, repr=False)
    kb: Any = Field(default=None, exclude=True, repr=False)
    kbs: Any = Field(default=None, exclude=True, repr=False)
    kb_id: str | None = None

    @model_validator(mode="after")
    def _open_kblam_knowledge(self) -> Self:
        if self.engine is not None and not isinstance(self.engine, KBLaM):
            raise ConfigurationError(f"engine: expected a KBLaM, got {type(self.engine).__name__}")
        if self.kb is not None:
            self.kb = as_knowledge_base(self.kb, encoder=self._sentence_encoder)
        if self.kbs is not None and not isinstance(self.kbs, KBRegistry):
            self.kbs = KBRegistry(self.kbs, encoder=self._sentence_encoder)
        return self

    def engine_config(self, model: str | None = None) -> EngineConfig:
        """Return the configuration that objects share an engine by; `model` names another model."""
        if model is None or model == self.model:
            return EngineConfig(self.model, self.adapter, self.encoder, self.dtype, self.device)
        return EngineConfig(model, None, None, self.dtype, self.device)

    def load_engine(self, model: str | None = None) -> KBLaM:
        """Return the engine, loaded now if nobody has yet.

        Raises:
            ConfigurationError: another model is asked for beside a given engine.
            ModelNotFoundError: there is no such model, or no adapter ships for it.
        """
        if self.engine is None:
            return self.engine_config(model).engine()
        engine: KBLaM = self.engine
        if model not in (None, self.model, engine.name):
            raise ConfigurationError(f"model: {model!r} was asked for, but the engine given is {engine.name!r}")
        return engine

    def __getstate__(self) -> dict[Any, Any]:
        """Return what `pickle` writes.

        Raises:
            ConfigurationError: there is an engine or a knowledge base, which the copy would not have.
        """
        self._refuse_copies()
        # Of a copy: LlamaIndex takes out of the object itself what it cannot pickle.
        return super(EngineFields, self.model_copy()).__getstate__()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a deep copy.

        Raises:
            ConfigurationError: there is an engine or a knowledge base, of which there can be no second one.
        """
        self._refuse_copies()
        return super().__deepcopy__(memo)

    def _refuse_copies(self) -> None:
        held = [name for name in NOT_TEXT if getattr(self, name) is not None]
        if held:
            raise ConfigurationError(
                f"a {type(self).__name__} with {' and '.join(held)} is neither pickled nor copied deeply: model and knowledge base "
                "belong to this process; make another one from the same arguments there, or share this one (model_copy())"
            )

    def close(self) -> None:
        """Let the shared engine go: its memory is free once no call and nobody else holds it.

        Objects of the same configuration share it; the next call of any of them loads it again. An engine that was given
        as `engine` is its owner's and stays, and so do knowledge bases.
        """
        if self.engine is None:
            release_engines(self.engine_config())

    def knowledge_base(self, kb_id: str | None = None) -> KnowledgeBase | KBSnapshot | None:
        """Return the knowledge base that a call answers from.

        Args:
            kb_id: the one with this id; None takes the object's own.

        Raises:
            ConfigurationError: there is none with this id, or there are none by id at all.
        """
        chosen = self.kb_id if kb_id is None else kb_id
        if chosen is None:
            return None if self.kb is None else as_knowledge_base(self.kb, encoder=self._sentence_encoder)
        if self.kbs is None:
            raise ConfigurationError(f"kb_id: {chosen!r} was asked for, but no kbs were given")
        registry: KBRegistry = self.kbs
        return registry.get(chosen)

    def model_name(self, model: str | None = None) -> str:
        """Return the name of the base model that answers."""
        return str(self.engine.name) if self.engine is not None else model or self.model

    def _sentence_encoder(self) -> Any:
        return self.engine.encoder if self.engine is not None else self.engine_config().sentence_encoder()

    def _engine_identity(self, model: str | None = None) -> dict[str, Any]:
        """Return what tells this engine from others, for the keys of caches; loads nothing."""
        if self.engine is None:
            config = self.engine_config(model)
            adapter, encoder = config.adapter_digest(), config.encoder
            return {"model": config.model, "adapter": adapter, "encoder": encoder, "dtype": config.dtype}
        return {"model": self.engine.loaded.fingerprint, "adapter": _adapter_digest(self.engine)}


PASSED_ON = (
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "refusal_threshold",
    "max_hops",
    "unknown",
    "chat_template_kwargs",
)
"""Fields and options of a call that the engine takes under the same name."""


class AnsweringFields(EngineFields):
    """How to answer; None leaves it to the engine. A call may bring any of them as an option.

    Described where people look, as the fields of an engine are.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    refusal_threshold: float | None = None
    max_hops: int | None = None
    unknown: Literal["refuse", "base"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    timeout: float | None = None

    def engine_options(self, given: dict[str, Any], *stops: str, others: str) -> dict[str, Any]:
        """Return the options of ``KBLaM.answer`` for a call.

        Args:
            given: options of the call, which come before the fields; emptied.
            stops: texts that end this answer, besides those of the field.
            others: further options of a call, for the message about an unknown one.

        Raises:
            ConfigurationError: there is no such option.
        """
        options: dict[str, Any] = {"stop": tuple(dict.fromkeys([*(self.stop or []), *stops]))}
        for name in (*PASSED_ON, "max_tokens"):
            value = given.pop(name, None)
            value = getattr(self, name) if value is None else value
            if value is not None:
                options["max_new_tokens" if name == "max_tokens" else name] = value
        if given:
            raise ConfigurationError(
                f"unknown options {', '.join(sorted(given))}: expected {', '.join(PASSED_ON)}, "
                f"max_tokens, stop, {others}"
            )
        return options


def too_late(timeout: float | None) -> TimeoutError:
    """Return what a call raises that has taken too long."""
    return TimeoutError(f"the answer took longer than timeout={timeout} seconds; it has been cancelled")


def kb_identity(kb: KnowledgeBase | KBSnapshot | None) -> dict[str, Any]:
    """Return what tells this knowledge base at this moment from every other and from itself after a change."""
    if kb is None:
        return {"kb": None}
    snapshot = kb if isinstance(kb, KBSnapshot) else kb.snapshot()
    if snapshot not in _contents:
        # An id never changes its content, so these tell all of it, of a part of a knowledge base as well.
        _contents[snapshot] = hashlib.blake2b(snapshot.ids.tobytes(), digest_size=8).hexdigest()
    return {"kb": snapshot.kb_id, "kb_fingerprint": snapshot.fingerprint, "kb_ids": _contents[snapshot]}


def kb_revision_of(kb: KBSnapshot | None) -> dict[str, Any]:
    """Return what an answer says of where it comes from: id and revision of its knowledge base."""
    return {"kb": None, "kb_revision": None} if kb is None else {"kb": kb.kb_id, "kb_revision": kb.revision}


VERSION = {"kblam_engine": __version__}
"""Part of the keys of caches: another version may bring another adapter."""

_contents: WeakKeyDictionary[KBSnapshot, str] = WeakKeyDictionary()
_digests: WeakKeyDictionary[KBLaM, str] = WeakKeyDictionary()


def _adapter_digest(engine: KBLaM) -> str:
    if engine not in _digests:
        digest = hashlib.sha256(repr(engine.adapter.config).encode())
        for name, tensor in sorted(engine.adapter.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
        _digests[engine] = digest.hexdigest()[:16]
    return _digests[engine]

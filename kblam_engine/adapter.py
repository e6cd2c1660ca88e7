"""The adapter: everything that is trained, in one module, with the configuration that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from kblam_engine.bert_encoder import BertEncoder
from kblam_engine.errors import CheckpointError, ConfigurationError
from kblam_engine.evidence import FEATURES
from kblam_engine.evidence_head import EvidenceHead
from kblam_engine.low_rank import LowRankConfig, LowRankUpdate
from kblam_engine.native_tokens import NativeTokenAdapter, NativeTokenConfig
from kblam_engine.sentence_encoder import SentenceEncoder
from kblam_engine.sentence_tokens import SentenceTokenAdapter, SentenceTokenConfig

FORMAT = 1
"""Version of the adapter folder; one that is newer or older than the code reads is refused."""

_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "str": (str,), "bool": (bool,)}
"""What JSON must hold for an annotation; a true or false is no number."""


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter is made for, and how it decides; stored beside its weights.

    Attributes:
        base_model: name of the base model, for people.
        base_fingerprint: its weights, see ``LoadedModel.fingerprint``.
        encoder: name of the sentence encoder.
        encoder_fingerprint: its weights, see ``SentenceEncoder.fingerprint``.
        embed_dim: length of a sentence embedding.
        native: shape of the native-token part.
        evidence_hidden: hidden units of the evidence head.
        refusal_threshold: a question whose best triple is less probable than this is refused.
        n_select: triples selected for an answer.
        retrieval_layer: decoder layer whose hidden state joins the KB query; None: sentence embeddings only.
        sentence: shape and rules of the sentence tokens; None: the adapter has none.
        questions: shape of what is added to the sentence encoder where it encodes questions; None: nothing is.
    """

    base_model: str
    base_fingerprint: str
    encoder: str
    encoder_fingerprint: str
    embed_dim: int
    native: NativeTokenConfig
    evidence_hidden: int = 64
    refusal_threshold: float = 0.24
    n_select: int = 6
    retrieval_layer: int | None = None
    sentence: SentenceTokenConfig | None = None
    questions: LowRankConfig | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigurationError: a number is out of its range.
        """
        if not 0.0 < self.refusal_threshold < 1.0:
            raise ConfigurationError(
                f"refusal_threshold: expected above 0 and below 1, got {self.refusal_threshold}"
            )
        if min(self.embed_dim, self.evidence_hidden, self.n_select) < 1:
            raise ConfigurationError(f"adapter: every size must be at least 1, got {self}")
        if self.retrieval_layer is not None and not 0 <= self.retrieval_layer < self.native.layers[0]:
            raise ConfigurationError(
                f"retrieval_layer: expected one before the first KB layer {self.native.layers[0]}, "
                f"got {self.retrieval_layer}"
            )
        if self.sentence is not None and self.sentence.embed_dim != self.embed_dim:
            raise ConfigurationError(
                f"sentence tokens: expected embed_dim {self.embed_dim}, got {self.sentence.embed_dim}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON objects; of parts that it does not have nothing is said."""
        told = {"format": FORMAT, "features": list(FEATURES), **asdict(self)}
        return {key: value for key, value in told.items() if value is not None or key not in ("sentence", "questions")}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AdapterConfig:
        """Read what ``to_dict`` wrote.

        Raises:
            CheckpointError: another format or other features, a key is missing or unknown, or a value is of the wrong type.
        """
        data = dict(data)
        found, features = data.pop("format", None), data.pop("features", None)
        if found != FORMAT:
            raise CheckpointError(
                f"adapter format: expected {FORMAT}, got {found!r}; train it again, or upgrade"
            )
        if features != list(FEATURES):
            known = set(features) if isinstance(features, list) else set()
            raise CheckpointError(
                f"adapter features: expected {len(FEATURES)} ({', '.join(sorted(set(FEATURES) - known)) or 'none'} "
                f"missing), got {len(known)} ({', '.join(sorted(map(str, known - set(FEATURES)))) or 'none'} "
                "unknown); the adapter is for another version: train it again"
            )
        try:
            native = dict(data.pop("native"))
            native["layers"] = tuple(native["layers"])
            _check_types("native", NativeTokenConfig, native)
            _check_types("adapter", cls, data)
            sentence = data.pop("sentence", None)
            if sentence is not None:
                _check_types("sentence", SentenceTokenConfig, sentence)
                data["sentence"] = SentenceTokenConfig.from_dict(sentence)
            questions = data.pop("questions", None)
            if questions is not None:
                _check_types("questions", LowRankConfig, questions)
                data["questions"] = LowRankConfig(**questions)
            return cls(native=NativeTokenConfig(**native), **data)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"adapter_config.json: not an adapter configuration ({error})") from error


def _check_types(part: str, of: type, data: Mapping[str, Any]) -> None:
    """Compare the values of JSON with the annotations of a configuration's plain fields.

    Raises:
        ConfigurationError: one is of another type; a width of 2.5 would fail much later, where a tensor is made.
    """
    for field in fields(of):
        annotation = str(field.type)
        each = annotation.removeprefix("tuple[").removesuffix(", ...]")
        kind, _, optional = each.partition(" | ")
        if field.name not in data or kind not in _KINDS:
            continue
        value = data[field.name]
        values = value if each != annotation else (value,)
        right = all(isinstance(v, _KINDS[kind]) and (kind == "bool" or not isinstance(v, bool)) for v in values)
        if not right and not (value is None and optional == "None"):
            raise ConfigurationError(f"{part}: expected {field.name} of type {annotation}, got {value!r}")


class KnowledgeAdapter(nn.Module):
    """The trained tensors: native tokens, evidence head, and such parts as the configuration has besides.

    Attributes:
        config: what it is made for.
        sentence: the sentence tokens, or None.
        questions: what is added to the sentence encoder where it encodes questions, or None.
    """

    sentence: SentenceTokenAdapter | None
    questions: LowRankUpdate | None

    def __init__(self, config: AdapterConfig) -> None:
        """Make an untrained adapter of this configuration."""
        super().__init__()
        self.config = config
        self.native = NativeTokenAdapter(config.native)
        self.evidence = EvidenceHead(config.evidence_hidden, config.embed_dim)
        if config.retrieval_layer is not None:
            self.hidden_query = nn.Linear(config.native.hidden_size, config.embed_dim)
        self.sentence = None if config.sentence is None else SentenceTokenAdapter(config.sentence)
        self.questions = None if config.questions is None else LowRankUpdate(config.questions)

    def question_encoder(self, encoder: SentenceEncoder, dtype: torch.dtype | None = None) -> SentenceEncoder:
        """Return what encodes questions: the KB's encoder, with the adapter's update if there is one.

        Args:
            encoder: the KB's.
            dtype: what the updated layers compute in; None leaves the encoder's.

        Raises:
            CheckpointError: there is an update, and the encoder cannot take it.
        """
        if self.questions is None:
            return encoder
        if not isinstance(encoder, BertEncoder) or encoder.update_config(self.questions.config.rank) != self.questions.config:
            raise CheckpointError(
                f"the adapter's question encoder adds to a BERT of the shape {self.questions.config}, got the sentence "
                f"encoder {encoder.name!r}; use the one that the adapter was made for, or train another adapter"
            )
        return encoder.updated(self.questions, dtype)

    def add_sentence_tokens(self, sentence: SentenceTokenAdapter) -> None:
        """Take sentence tokens in, in place of those that are there.

        Raises:
            ConfigurationError: they are for another width of sentence embeddings.
        """
        self.config = replace(self.config, sentence=sentence.config)
        self.sentence = sentence

    @torch.no_grad()
    def query_of(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the hidden state's part of the KB query, [batch, embed_dim], from [batch, hidden]."""
        query: torch.Tensor = self.hidden_query(hidden.float())
        return query

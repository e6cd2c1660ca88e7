"""Load a base model: any causal language model that transformers knows, frozen and ready for inference."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kblam_engine.errors import ConfigurationError, ModelNotFoundError
from kblam_engine.models.registry import (
    DEFAULT_MODEL,
    EMBEDDED,
    Kind,
    ResolvedModel,
    folder_digest,
    resolve_model,
)

if TYPE_CHECKING:
    import torch

_DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}
NO_CODE: Mapping[str, Any] = {"trust_remote_code": False}
"""For every ``from_pretrained`` of transformers: unless told so, it asks on stdin whether to run a model's own code."""

_AGAIN: Mapping[Kind, str] = {
    "embedded": "remove that folder, and it is converted again",
    "local": "copy or download the folder again",
    "hub": "download it again",
}
_MAX_NAMED = 3
"""Tensors that an error names; a folder that lost one of its files lacks hundreds."""

# Flags of /proc/cpuinfo for arithmetic in bfloat16: x86 vectors, x86 tiles, and Arm.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A frozen base model in evaluation mode, with its tokenizer.

    `fingerprint` names the weights, not the place: the same folder copied elsewhere keeps it.
    """

    model: Any
    tokenizer: Any
    name: str
    fingerprint: str
    dtype: torch.dtype
    device: torch.device

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        return end_ids(self.model, self.tokenizer)

    @property
    def turn_end(self) -> int:
        """The one of them that statements end with."""
        return turn_end(self.model, self.tokenizer)


def load_base_model(
    name_or_path: str | PathLike[str] = DEFAULT_MODEL,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> LoadedModel:
    """Load an embedded model by name, a local folder, or a Hugging Face id.

    `dtype` is a torch dtype or its name (float32, bfloat16, float16); None takes `default_dtype`. `device`
    None takes a GPU where there is one. Only safetensors weights are read, and no code from a folder is run.

    Raises:
        ModelNotFoundError: there is no such model, or it cannot be read, or its weights lack a tensor.
        MissingDependencyError: the package with an embedded model is not installed.
        ConfigurationError: `dtype` or `device` is not one that torch knows, or the model's tokenizer is none that
            can be worked with: not a fast one, without a chat template, or without an end token that the model does not
            name either.
    """
    resolved = resolve_model(name_or_path)
    import torch

    try:
        place = torch.device(default_device() if device is None else device)
    except RuntimeError as error:
        raise ConfigurationError(f"device: expected cpu, cuda or cuda:N, got {device!r}") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(f"device: {place} asked for, but torch sees no GPU; use cpu")
    number_type = default_dtype(place) if dtype is None else parse_dtype(dtype)
    model, tokenizer = _load(resolved, number_type)
    model.to(place)
    model.eval()
    model.requires_grad_(False)
    return LoadedModel(model, tokenizer, resolved.name, _fingerprint(resolved, model), number_type, place)


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer: those of the model's generation config, or else the tokenizer's own."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    known = {int(i) for i in ids if i is not None} or {tokenizer.eos_token_id}
    return frozenset(i for i in known if i is not None)


def turn_end(model: Any, tokenizer: Any) -> int:
    """Return the end that statements are trained and written with: the tokenizer's own, where several end a turn.

    Raises:
        ConfigurationError: neither model nor tokenizer have one.
    """
    ends = end_ids(model, tokenizer)
    if not ends:
        raise ConfigurationError(f"expected an end token, got a tokenizer that has no end token: {_NAME_AN_END}")
    own = tokenizer.eos_token_id
    return own if own in ends else min(ends)


def default_device() -> str:
    """Return "cuda" where torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str | torch.device) -> torch.dtype:
    """Return bfloat16 where the device computes in it, else float32.

    A CPU without the instructions still accepts bfloat16, and is many times slower in it than in float32.
    """
    import torch

    place = torch.device(device)
    if place.type == "cuda":
        native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    if place.type == "cpu" and _BF16_FLAGS & _cpu_flags():
        return torch.bfloat16
    return torch.float32


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the floating-point torch dtype that a name means.

    Raises:
        ConfigurationError: the name is not float32, bfloat16 or float16 (or fp32, bf16, fp16).
    """
    import torch

    if isinstance(dtype, torch.dtype):
        if dtype.is_floating_point:
            return dtype
    elif dtype in _DTYPES:
        found: torch.dtype = getattr(torch, _DTYPES[dtype])
        return found
    raise ConfigurationError(f"dtype: expected float32, bfloat16 or float16, got {str(dtype)!r}")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Switch off the progress bars and advice of transformers, and put its settings back afterwards."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _load(resolved: ResolvedModel, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return model and tokenizer; everything transformers raises about the place becomes one line."""
    place = resolved.path_or_id
    if resolved.kind == "embedded":
        from kblam_engine.models.embedded import prepare

        place = str(prepare(EMBEDDED[resolved.name]))
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet_transformers():
            model, read = AutoModelForCausalLM.from_pretrained(
                place, dtype=dtype, use_safetensors=True, output_loading_info=True, **NO_CODE
            )
            tokenizer = AutoTokenizer.from_pretrained(place, **NO_CODE)
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        reason, remedy = _explain(error, resolved.kind)
        raise ModelNotFoundError(f"cannot load the base model {place!r}: {reason} ({remedy})") from error
    check_whole(read, place, _AGAIN[resolved.kind])
    _check_tokenizer(tokenizer, model, place)
    return model, tokenizer


def check_whole(read: Mapping[str, Collection[Any]], place: str, remedy: str) -> None:
    """Refuse weights that lack a tensor: transformers fills it with random numbers, and answers are nonsense.

    Args:
        read: what ``from_pretrained`` tells with ``output_loading_info=True``; tensors that are tied to others, and those
            that a model computes itself, are not missing there.
        place: where the weights come from.
        remedy: what to do about it.

    Raises:
        ModelNotFoundError: a tensor is missing, or has another shape.
    """
    names = sorted({*read["missing_keys"], *(name for name, *_ in read["mismatched_keys"])})
    if names:
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        raise ModelNotFoundError(
            f"cannot load the base model {place!r}: expected weights with all tensors of its config.json, got none or "
            f"other shapes for {', '.join(names[:_MAX_NAMED])}{more} ({remedy})"
        )


def _explain(error: Exception, kind: Kind) -> tuple[str, str]:
    """Return the reason why a base model cannot be loaded, one line, and what to do about it."""
    from safetensors import SafetensorError

    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    again = _AGAIN[kind]
    if "custom code" in reason:
        return (
            "it brings its own code, and no code from a model is run",
            "expected an architecture that transformers has itself: take another model",
        )
    if "ignore_mismatched_sizes" in reason:
        return "its weights have other shapes than its config.json says", again
    if isinstance(error, SafetensorError):
        return f"its weights are damaged: {reason}", again
    if kind == "hub":
        return reason, "check the id and the network, or download it first and give the folder"
    return reason, "expected a causal language model saved as safetensors, with its tokenizer"


_NAME_AN_END = (
    "name the token that ends a turn as eos_token in its tokenizer_config.json, or its id as eos_token_id in the model's "
    "generation_config.json"
)


def _check_tokenizer(tokenizer: Any, model: Any, place: str) -> None:
    """Refuse a tokenizer that would fail only later, in the middle of an answer or of training.

    Raises:
        ConfigurationError: it is not a fast one, or has no chat template, or neither it nor the model has an end token.
    """
    if not tokenizer.is_fast:
        problem = "is not a fast one (no tokenizer.json)"
        remedy = "save it with AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(folder)"
    elif not tokenizer.chat_template:
        problem = "has no chat template"
        remedy = "take the model's chat version, or put a chat_template.jinja into its folder"
    elif not end_ids(model, tokenizer):
        problem, remedy = "has no end token", _NAME_AN_END
    else:
        return
    raise ConfigurationError(f"base model {place!r}: expected the tokenizer of a chat model, got one that {problem}: {remedy}")


def _fingerprint(resolved: ResolvedModel, model: Any) -> str:
    """Return a stable id of the weights: the name and twelve hexadecimal digits."""
    if resolved.kind == "embedded":
        return f"{resolved.name}:{EMBEDDED[resolved.name].sha256[:12]}"
    if resolved.kind == "hub":
        return f"{resolved.name}:{str(getattr(model.config, '_commit_hash', None) or 'unknown')[:12]}"
    folder = Path(resolved.path_or_id)
    return f"{model.config.model_type}:{folder_digest(folder)[:12]}"


def _cpu_flags() -> frozenset[str]:
    """Return the feature flags of the first processor, empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()

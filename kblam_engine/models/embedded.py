"""Embedded base models: from the GGUF file in a package to a folder that transformers loads in seconds.

The conversion happens once per user. It works in a temporary folder under a file lock and renames that
folder into place as its last step: a reader sees a whole model or none, and a crash leaves nothing that looks
like one.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from kblam_engine.errors import KBLaMError, MissingDependencyError
from kblam_engine.models.registry import MARKER, EmbeddedModel, TextFormat, prepared_folder, sha256_of

logger = logging.getLogger(__name__)

_PARTIAL = ".partial-"


def prepare(model: EmbeddedModel) -> Path:
    """Return the folder of the converted model, converting it first where that has not been done.

    Raises:
        MissingDependencyError: the package with the weights, or `gguf`, is not installed.
        ModelNotFoundError: the weights in the package are not the expected ones.
        KBLaMError: the folder cannot be written.
    """
    folder = prepared_folder(model)
    if is_whole(folder):
        return folder
    model.require()
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The operating system drops the lock of a process that dies; the empty lock file stays.
        with FileLock(f"{folder}.lock"):
            if not is_whole(folder):  # another process may have done it while this one waited
                _convert_into(folder, model, model.locate())
    except OSError as error:
        raise KBLaMError(
            f"cannot write the converted model to {folder.parent}: {error.strerror or error}; "
            f"it needs {model.disk_mb} MB there, and KBLAM_CACHE names another folder"
        ) from error
    return folder


def is_whole(folder: Path) -> bool:
    """Say whether a converted model is complete: the weights have the size that its marker names."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return bool((folder / "model.safetensors").stat().st_size == marker["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _convert_into(folder: Path, model: EmbeddedModel, pieces: Sequence[Path]) -> None:
    """Convert in a temporary folder beside `folder`, then rename; the caller holds the lock."""
    for stale in folder.parent.glob(f"{folder.name}{_PARTIAL}*"):
        shutil.rmtree(stale, ignore_errors=True)  # left by a process that died
    model.verify(*pieces)
    logger.info("preparing %s, once: %s -> %s", model.name, pieces[0].name, folder)
    partial = folder.parent / f"{folder.name}{_PARTIAL}{os.getpid()}"
    partial.mkdir()
    try:
        weights = pieces[0] if len(pieces) == 1 else _joined(pieces, partial / "joined.gguf")
        _convert(weights, partial, model)
        if weights.parent == partial:
            weights.unlink()
        _sync(partial)
        if folder.exists():  # incomplete: truncated by hand or by a full disk
            shutil.rmtree(folder)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _joined(pieces: Sequence[Path], target: Path) -> Path:
    """Write the pieces one after the other into `target`, and return it."""
    with target.open("wb") as whole:
        for piece in pieces:
            with piece.open("rb") as file:
                shutil.copyfileobj(file, whole, 1 << 20)
    return target


def _convert(weights: Path, target: Path, model: EmbeddedModel) -> None:
    """Write config, weights, tokenizer, generation config and marker into `target`.

    The weights are stored as float16. Against the dequantised values (a 16-bit scale times four bits, plus a
    16-bit minimum) that is a relative error of 2e-4, where the four bits themselves stand for about 7e-2;
    bfloat16 would lose seven times more, and float32 would double the file for nothing.
    """
    assert model.text is not None, f"{model.name} is a base model without a text format"
    try:
        import gguf  # noqa: F401  transformers reads GGUF through it
    except ImportError as error:
        raise MissingDependencyError(
            f"preparing {model.name} needs the package gguf, once: pip install gguf"
        ) from error
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kblam_engine.models.loading import NO_CODE, check_whole, quiet_transformers

    source: dict[str, Any] = {"gguf_file": weights.name, **NO_CODE}
    with quiet_transformers(), _without_bar():
        network, read = AutoModelForCausalLM.from_pretrained(
            str(weights.parent), dtype=torch.float32, output_loading_info=True, **source
        )
        # The file is the right one, so what it lacks is what this transformers does not find in it.
        check_whole(read, weights.name, "install the version of transformers that constraints.txt names")
        # With the config given, the file is not read once more for it: a large vocabulary takes long.
        tokenizer = AutoTokenizer.from_pretrained(str(weights.parent), config=network.config, **source)
        _finish_config(network, tokenizer, model.text)
        network.to(torch.float16).save_pretrained(target)
        _rename_config(target / "config.json", model)
        _save_tokenizer(tokenizer, target, model.text, network.config.max_position_embeddings)
    file = target / "model.safetensors"
    marker = {
        "name": model.name,
        "origin": model.origin,
        "licence": model.licence,
        "source_sha256": model.sha256,
        "sha256": sha256_of(file),
        "bytes": file.stat().st_size,
    }
    (target / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _without_bar() -> Iterator[None]:
    """Switch off the bar of reading GGUF, which the setting of transformers for its bars does not reach."""
    from transformers import modeling_gguf_pytorch_utils as reading

    bar = getattr(reading, "tqdm", None)
    if bar is None:  # another version of transformers
        yield
        return
    reading.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        reading.tqdm = bar


def _finish_config(network: Any, tokenizer: Any, text: TextFormat) -> None:
    """Replace what describes the GGUF file by what describes the model."""
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(network.config, name):
            delattr(network.config, name)
    ends = tokenizer.convert_tokens_to_ids(list(text.ends))
    for config in (network.config, network.generation_config):
        config.bos_token_id = tokenizer.convert_tokens_to_ids(text.begin)
        config.eos_token_id = ends[0] if len(ends) == 1 else ends
        config.pad_token_id = tokenizer.convert_tokens_to_ids(text.padding)
    network.generation_config._from_model_config = False
    network.hf_quantizer = None
    network.is_quantized = False


def _rename_config(file: Path, model: EmbeddedModel) -> None:
    """Name the published model in the saved config, where the GGUF file has the name of a training run."""
    config = json.loads(file.read_text(encoding="utf-8"))
    config["_model_name_or_path"] = model.origin
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _save_tokenizer(tokenizer: Any, target: Path, text: TextFormat, max_length: int) -> None:
    """Save the tokenizer with what its GGUF file does not tell: splitting of digits, tokens, chat template."""
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = tokenizer.backend_tokenizer
    if text.single_digits:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
            ]
        )
    saved = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=text.begin,
        eos_token=text.ends[0],
        unk_token=text.unknown,
        pad_token=text.padding,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        padding_side="left",  # decoder-only: a batch ends where its answers begin
    )
    saved.chat_template = text.chat_template or tokenizer.chat_template
    saved.save_pretrained(target)


def _sync(folder: Path) -> None:
    """Force the files of a folder to disk, so that no crash keeps the rename and loses the content."""
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(0o644)  # safetensors writes for the owner only, but a cache may be shared
            with path.open("rb+") as file:
                os.fsync(file.fileno())

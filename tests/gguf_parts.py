"""Tiny GGUF files of two architectures, and cards of embedded models that are such files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from kblam_engine.models.registry import DEFAULT_MODEL, EMBEDDED, EmbeddedModel, sha256_of

TINY_SHAPE = {"hidden": 64, "heads": 4, "kv_heads": 2, "feed_forward": 96}


def started_gguf(path: Path, architecture: str, blocks: int, tokens: list[str]) -> Any:
    """Return a writer of a tiny GGUF that knows the shape of the model."""
    import gguf

    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(TINY_SHAPE["hidden"])
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(TINY_SHAPE["feed_forward"])
    writer.add_head_count(TINY_SHAPE["heads"])
    writer.add_head_count_kv(TINY_SHAPE["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    return writer


def finish_gguf(writer: Any, blocks: int, tokens: list[str], norms: dict[str, int], kind: str) -> None:
    """Add random weights, `kind` and Q8_0 as in the real files, and write everything."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(0)
    hidden, wide, narrow = TINY_SHAPE["hidden"], TINY_SHAPE["feed_forward"], 32
    shapes = {
        "attn_q": (hidden, hidden),
        "attn_k": (narrow, hidden),
        "attn_v": (narrow, hidden),
        "attn_output": (hidden, hidden),
        "ffn_gate": (wide, hidden),
        "ffn_up": (wide, hidden),
        "ffn_down": (hidden, wide),
    }

    def add(name: str, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> None:
        values = rng.standard_normal(shape).astype(np.float32) * 0.1
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    types = gguf.GGMLQuantizationType
    add("token_embd.weight", (len(tokens), hidden), types.Q8_0)
    writer.add_tensor("output_norm.weight", np.ones(hidden, dtype=np.float32))
    for block in range(blocks):
        for name, shape in shapes.items():
            add(f"blk.{block}.{name}.weight", shape, types[kind])
        for name, size in norms.items():
            writer.add_tensor(f"blk.{block}.{name}.weight", np.full(size, 1.25, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf(path: Path) -> None:
    """Write a Llama of one layer as GGUF, Q4_1 and Q8_0 like the real one, with a byte-level vocabulary."""
    from tokenizers import pre_tokenizers

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += ["ĠĠ", "he"]
    writer = started_gguf(path, "llama", 1, tokens)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ Ġ", "h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>\n{% endfor %}")
    finish_gguf(writer, 1, tokens, {"attn_norm": 64, "ffn_norm": 64}, "Q4_1")


def write_gemma_gguf(path: Path) -> None:
    """Write a Gemma 3 of six layers as GGUF, without a chat template and with a vocabulary of SentencePiece's kind."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    raw = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = [chr(code) for code in range(33, 127)] + ["▁", "▁t", "he", "▁the"]
    breaks = ["\n", "\n\n", "\n\n\n"]  # found in the text before anything else
    tokens = special + breaks + raw + letters
    writer = started_gguf(path, "gemma3", 6, tokens)
    writer.add_rope_freq_base(1e6)
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_sliding_window(8)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([3] * len(special) + [4] * len(breaks) + [6] * len(raw) + [1] * len(letters))
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    norms = {"attn_norm": 64, "post_attention_norm": 64, "ffn_norm": 64, "post_ffw_norm": 64}
    finish_gguf(writer, 6, tokens, {**norms, "attn_q_norm": 16, "attn_k_norm": 16}, "Q5_0")


@dataclasses.dataclass(frozen=True)
class FileModel(EmbeddedModel):
    """An embedded model whose files are paths, in no package."""

    def locate(self) -> tuple[Path, ...]:
        paths = tuple(Path(file) for _, file in self.pieces or (("", self.file),))
        return paths if all(path.is_file() for path in paths) else ()


def tiny_card(*paths: Path, sha256: str | None = None, like: str = DEFAULT_MODEL) -> FileModel:
    return FileModel(
        name="tiny",
        role="base model",
        package="tiny-package",
        version="1.0",
        file=str(paths[0]),
        sha256=sha256 or sha256_of(*paths),
        licence="none",
        origin="tests/tiny",
        pieces=tuple(("tiny-package", str(path)) for path in paths) if len(paths) > 1 else (),
        text=EMBEDDED[like].text,
        disk_mb=300,
    )


def cut(path: Path, folder: Path, n: int = 3) -> list[Path]:
    """Cut a file into pieces of one size but for the last, in a folder."""
    data = path.read_bytes()
    size = -(-len(data) // n)
    pieces = [folder / f"piece{number}" for number in range(n)]
    for number, piece in enumerate(pieces):
        piece.write_bytes(data[number * size : (number + 1) * size])
    return pieces

"""Writes a tiny Llama checkpoint with random weights and a byte tokenizer, without any download.

`python -m workers.vllm.tiny_model DIRECTORY [--seed N]`. Equal seeds give equal files. The answers mean nothing; what
it is for is a real engine with real scheduling and a real KV cache on any machine.
"""

import argparse
import dataclasses
import json
import pathlib
import struct
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

_KV_HEADS, _HEAD_DIM, _VOCAB = 2, 32, 320
_CONTEXT_TOKENS = 32768
_BYTES = 256
_SPECIALS = ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>")
_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{{ m['content'] }}"
    "{% if not loop.last or m['role'] != 'assistant' or add_generation_prompt %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

Tensor = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """Size of the model. The default is as small as an engine takes: its steps are the engine's own Python, not arithmetic."""

    hidden: int = 128
    layers: int = 2
    heads: int = 4
    inner: int = 256


def write(directory: pathlib.Path, seed: int = 0, shape: Shape | None = None) -> None:
    """Write the checkpoint into `directory` (made if need be; files there are replaced)."""
    shape = shape or Shape()
    directory.mkdir(parents=True, exist_ok=True)
    ids = {"bos_token_id": _BYTES, "eos_token_id": _BYTES + 1}
    _write_json(directory / "config.json", _config(shape) | ids)
    _write_json(directory / "generation_config.json", ids)
    _write_json(directory / "tokenizer.json", _tokenizer())
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "model_max_length": _CONTEXT_TOKENS,
            "chat_template": _CHAT_TEMPLATE,
        },
    )
    (directory / "model.safetensors").write_bytes(safetensors(_weights(seed, shape)))


def safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """The tensors in the safetensors format: header length (8 bytes, little-endian), JSON header, data."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": tensor.shape,
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(tensor.tobytes() for tensor in tensors.values())


def _weights(seed: int, shape: Shape) -> dict[str, Tensor]:
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, gain: float = 1.0) -> Tensor:
        values = random.standard_normal((rows, columns)) * gain / np.sqrt(columns)
        return np.asarray(values, dtype=np.float32)

    ones = np.ones(shape.hidden, np.float32)
    head = matrix(_VOCAB, shape.hidden, 3.0)
    # The special tokens' logits stay 0, so that greedy decoding hardly ever ends by itself.
    head[_BYTES:] = 0.0
    tensors = {
        "model.embed_tokens.weight": random.standard_normal((_VOCAB, shape.hidden)).astype(np.float32),
        "model.norm.weight": ones,
        "lm_head.weight": head,
    }
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        tensors |= {
            prefix + "input_layernorm.weight": ones,
            prefix + "post_attention_layernorm.weight": ones,
            prefix + "self_attn.q_proj.weight": matrix(shape.heads * _HEAD_DIM, shape.hidden, 2.0),
            prefix + "self_attn.k_proj.weight": matrix(_KV_HEADS * _HEAD_DIM, shape.hidden, 2.0),
            prefix + "self_attn.v_proj.weight": matrix(_KV_HEADS * _HEAD_DIM, shape.hidden, 2.0),
            prefix + "self_attn.o_proj.weight": matrix(shape.hidden, shape.heads * _HEAD_DIM),
            prefix + "mlp.gate_proj.weight": matrix(shape.inner, shape.hidden),
            prefix + "mlp.up_proj.weight": matrix(shape.inner, shape.hidden),
            prefix + "mlp.down_proj.weight": matrix(shape.hidden, shape.inner),
        }
    return tensors


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_DIM,
        "intermediate_size": shape.inner,
        "vocab_size": _VOCAB,
        "max_position_embeddings": _CONTEXT_TOKENS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }


def _tokenizer() -> dict[str, object]:
    """One token per byte, in the `tokenizers` library's format."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": _BYTES + index, "content": text, **flags} for index, text in enumerate(_SPECIALS)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {character: index for index, character in enumerate(_byte_alphabet())},
            "merges": [],
        },
    }


def _byte_alphabet() -> list[str]:
    """GPT-2's printable character for each byte, sorted by code point, as `ByteLevel.alphabet()` gives them."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = range(256, 256 + 256 - len(printable))
    return sorted([chr(code) for code in printable] + [chr(code) for code in others])


def _write_json(path: pathlib.Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1))


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m workers.vllm.tiny_model", description=__doc__)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")
    arguments = parser.parse_args(argv)
    write(arguments.directory, arguments.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())

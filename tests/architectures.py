"""Tiny models of many architectures, with random weights, built by mlx-lm's own classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lab.train.model_files import model_of_type, stub_mlx_lm_packages

VOCABULARY = 512

_DENSE = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
}
_GEMMA = {
    "sliding_window": 32,
    "sliding_window_pattern": 3,
    "query_pre_attn_scalar": 16,
    "rope_local_base_freq": 10000.0,
    "rope_global_base_freq": 1e6,
}
_LINEAR_ATTENTION = {
    "num_hidden_layers": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
    "attention_bias": False,
}
_ROUTED = {
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,  # the first block is dense, the others have experts
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
}

# By model type, ``config.json``; the blocks of many are unlike each other.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama": _DENSE,
    "qwen3": _DENSE,
    "mistral3": {"text_config": {**_DENSE, "model_type": "llama", "tie_word_embeddings": False}},
    "phi3": {**_DENSE, "tie_word_embeddings": False},
    "olmo2": {**_DENSE, "tie_word_embeddings": False},
    "cohere2": {
        **_DENSE,
        "num_hidden_layers": 4,
        "logit_scale": 0.25,
        "layer_norm_eps": 1e-5,
        "sliding_window": 32,
        "sliding_window_pattern": 4,
        "attention_bias": False,
        "layer_norm_bias": False,
    },
    "gemma3_text": {**_DENSE, **_GEMMA},
    "gemma3": {
        "text_config": {**_DENSE, **_GEMMA, "model_type": "gemma3_text"},
        "vocab_size": VOCABULARY,
    },
    "gpt2": {
        "n_ctx": 256,
        "n_embd": 64,
        "n_head": 4,
        "n_layer": 3,
        "n_positions": 256,
        "layer_norm_epsilon": 1e-5,
        "vocab_size": VOCABULARY,
        "num_key_value_heads": 4,
    },
    "mixtral": {**_DENSE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "olmoe": {**_DENSE, **_EXPERTS, "norm_topk_prob": False, "tie_word_embeddings": False},
    "qwen3_moe": {**_DENSE, **_EXPERTS, "decoder_sparse_step": 1, "mlp_only_layers": [0]},
    "deepseek_v3": {
        **{k: v for k, v in _DENSE.items() if k != "head_dim"},
        **_ROUTED,
        "num_key_value_heads": 4,
        "moe_layer_freq": 1,
        "kv_lora_rank": 32,
        "q_lora_rank": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 16,
        "qk_nope_head_dim": 16,
    },
    "glm4_moe": {
        **_DENSE,
        **_ROUTED,
        "rope_scaling": None,
        "use_qk_norm": True,
        "attention_bias": False,
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": False,
    },
    "gpt_oss": {
        **_DENSE,
        "num_hidden_layers": 4,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "intermediate_size": 64,
        "sliding_window": 32,
        "rope_theta": 150000,
        "rope_scaling": None,
    },
    "mamba": {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "state_size": 8,
        "num_hidden_layers": 3,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
        "tie_word_embeddings": True,
    },
    "lfm2": {
        **_DENSE,
        "num_hidden_layers": 4,
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_ff_dim": 128,
        "block_multiple_of": 32,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": True,
        "full_attn_idxs": [1, 2],
        "layer_types": ["conv", "full_attention", "full_attention", "conv"],
    },
    "granitemoehybrid": {
        **_DENSE,
        "num_hidden_layers": 4,
        "layer_types": ["mamba", "attention", "mamba", "mamba"],
        "attention_bias": False,
        "embedding_multiplier": 1.0,
        "attention_multiplier": 0.25,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 64,
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_proj_bias": False,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_n_groups": 1,
        "mamba_conv_bias": True,
        "position_embedding_type": "rope",
    },
    "qwen3_next": {
        **_DENSE,
        **_EXPERTS,
        **_LINEAR_ATTENTION,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 64,
        "mlp_only_layers": [],
        "partial_rotary_factor": 0.5,
    },
    "qwen3_5": {
        "text_config": {
            **_DENSE,
            **_LINEAR_ATTENTION,
            "model_type": "qwen3_5_text",
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
                "mrope_section": [2, 1, 1],
            },
        },
    },
}


def make_folder(model_type: str, folder: Path, **changed: Any) -> Path:
    """Write a whole model folder: config, random weights in float32, a tokenizer of bytes.

    Arguments:
        changed: keys of ``config.json`` that are to be others.
    """
    stub_mlx_lm_packages()
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIGS[model_type], **changed, "model_type": model_type}
    mx.random.seed(7)
    model = model_of_type(config)
    weights = {
        name: mx.random.normal(array.shape) * 0.08 if array.ndim > 1 else array
        for name, array in tree_flatten(model.parameters(), destination={}).items()
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer of 259 tokens, of which three are special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=259, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["a"], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # else the model type's own class counts
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))

"""A tiny random model of every architecture in the table, with weights large enough for its FFNs to matter."""

from typing import Any

import torch

VOCABULARY = 40
HIDDEN = 16
_SIZES = {"hidden_size": HIDDEN, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_GROUPED = _SIZES | {"num_key_value_heads": 1}
_TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_BART = {"d_model": HIDDEN, "encoder_layers": 2, "decoder_layers": 2, "decoder_start_token_id": 2}
_BART |= {f"{stack}_{name}": size for stack in ("encoder", "decoder") for name, size in
          (("ffn_dim", 24), ("attention_heads", 2))}  # fmt: skip
_T5 = {"d_model": HIDDEN, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
# The grouped kernel of the experts knows no float64.
_EXPERTS = {"num_experts_per_tok": 2, "experts_implementation": "eager"}

# Class in transformers, and its config's settings.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", _GROUPED),
    "bart": ("BartForConditionalGeneration", _BART),
    "t5": ("T5ForConditionalGeneration", _T5),
    "t5_gated": ("T5ForConditionalGeneration", _T5 | {"feed_forward_proj": "gated-gelu"}),
    "qwen3": ("Qwen3ForCausalLM", _GROUPED | {"head_dim": 8}),
    "gemma3": ("Gemma3ForCausalLM", _GROUPED | {"head_dim": 8, "sliding_window": 4}),
    "mixtral": ("MixtralForCausalLM", _GROUPED | _EXPERTS | {"num_local_experts": 3}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        _GROUPED | _EXPERTS | {"head_dim": 8, "num_experts": 3, "moe_intermediate_size": 12, "norm_topk_prob": True},
    ),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": HIDDEN, "n_layer": 2, "n_head": 2, "n_inner": 24, "n_positions": 64}),
    "mistral": ("MistralForCausalLM", _GROUPED),
    "qwen2": ("Qwen2ForCausalLM", _GROUPED),
    "phi3": ("Phi3ForCausalLM", _GROUPED),
    "opt": (
        "OPTForCausalLM",
        {name: size for name, size in _SIZES.items() if name != "intermediate_size"}
        | {"ffn_dim": 24, "word_embed_proj_dim": HIDDEN, "max_position_embeddings": 64},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", _SIZES),
    "llava": ("LlavaForConditionalGeneration", {}),
}
ENCODER_DECODERS = ("bart", "t5", "t5_gated")


def make_tiny(name: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    """A model in evaluation mode; `settings` change its config."""
    import transformers

    class_name, own = ARCHITECTURES[name]
    kind: Any = getattr(transformers, class_name)
    torch.manual_seed(seed)
    config = _llava_config() if name == "llava" else kind.config_class(**own | _TOKENS | _spread(name) | settings)
    model = kind(config).to(dtype).eval()
    _separate(model)
    return model


def _spread(name: str) -> dict[str, Any]:
    if name in ("t5", "t5_gated"):
        return {"initializer_factor": 1.0}
    return {"init_std" if name in ("bart", "opt") else "initializer_range": 0.3}


def _llava_config() -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(**_SIZES, image_size=16, patch_size=8)
    text = LlamaConfig(**_GROUPED | _TOKENS | {"initializer_range": 0.3})
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=39)


def _separate(model: Any) -> None:
    """Make answers differ: T5 and its kind give almost flat logits when they are new."""
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=0.5)

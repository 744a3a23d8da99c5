"""Transformers that read text: small members of its encoders, decoders and encoder-decoders.

A member is a model class and its configuration, of which only sizes (and what they imply) differ from the defaults.
"""

from __future__ import annotations

from typing import Any

Options = dict[str, Any]
Members = dict[str, tuple[str, Options]]

TEXT: Options = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 128,
    "max_position_embeddings": 64,
}
SPECIAL: Options = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER: Options = TEXT | SPECIAL | {"num_key_value_heads": 2}
ENCODER_DECODER: Options = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "vocab_size": 128,
}
_EXPERTS: Options = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
_GPT2: Options = SPECIAL | {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128, "n_positions": 64}
_T5: Options = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 128}
_SEQ2SEQ: Options = ENCODER_DECODER | {"max_position_embeddings": 64}
_NEO: Options = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
_LATENT: Options = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
_STATES: Options = SPECIAL | {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 128, "state_size": 8}
_HYBRID: Options = {"mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2}

ENCODERS: Members = {
    "bert": ("BertForSequenceClassification", TEXT),
    "bert_mlm": ("BertForMaskedLM", TEXT),
    "roberta": ("RobertaForMaskedLM", TEXT),
    "xlm_roberta": ("XLMRobertaForMaskedLM", TEXT),
    "camembert": ("CamembertForTokenClassification", TEXT),
    "distilbert": (
        "DistilBertForMaskedLM",
        {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "vocab_size": 128},
    ),
    "electra": ("ElectraForMaskedLM", TEXT | {"embedding_size": 32}),
    "albert": ("AlbertForMaskedLM", TEXT | {"embedding_size": 32}),
    "mpnet": ("MPNetForMaskedLM", TEXT),
    "deberta": ("DebertaForMaskedLM", TEXT),
    "deberta_v2": ("DebertaV2ForMaskedLM", TEXT),
    "deberta_v3": (
        "DebertaV2ForMaskedLM",
        TEXT
        | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "share_att_key": True},
    ),
    "modernbert": ("ModernBertForMaskedLM", TEXT | SPECIAL | {"cls_token_id": 1, "sep_token_id": 2}),
    "fnet": ("FNetForMaskedLM", TEXT | SPECIAL | {"tpu_short_seq_length": 16}),
    "funnel": (
        "FunnelForMaskedLM",
        {"block_sizes": [1, 1], "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128, "vocab_size": 128},
    ),
    "longformer": ("LongformerForMaskedLM", TEXT | SPECIAL | {"attention_window": 8}),
    "big_bird": ("BigBirdForMaskedLM", TEXT | SPECIAL | {"attention_type": "original_full", "sep_token_id": 3}),
    "mobilebert": (
        "MobileBertForMaskedLM",
        TEXT | {"embedding_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 2},
    ),
    "squeezebert": ("SqueezeBertForMaskedLM", TEXT | {"embedding_size": 64}),
    "convbert": ("ConvBertForMaskedLM", TEXT | {"embedding_size": 64}),
    "nomic_bert": ("NomicBertForMaskedLM", TEXT | {"head_dim": 16}),
    "eurobert": ("EuroBertForMaskedLM", DECODER | {"num_key_value_heads": 4, "head_dim": 16, "mask_token_id": 3}),
    "xlnet": (
        "XLNetLMHeadModel",
        {"d_model": 64, "n_layer": 2, "n_head": 4, "d_head": 16, "d_inner": 128, "vocab_size": 128},
    ),
    "nystromformer": ("NystromformerForMaskedLM", TEXT | {"num_landmarks": 4, "segment_means_seq_len": 4}),
    "roformer": ("RoFormerForMaskedLM", TEXT | {"embedding_size": 64}),
    "rembert": ("RemBertForMaskedLM", TEXT | SPECIAL | {"input_embedding_size": 32, "output_embedding_size": 64}),
    "megatron_bert": ("MegatronBertForMaskedLM", TEXT),
    "layoutlm": ("LayoutLMForMaskedLM", TEXT),
    "esm": (
        "EsmForMaskedLM",
        TEXT | {"pad_token_id": 0, "mask_token_id": 3, "position_embedding_type": "rotary"},
    ),
}
"""Encoders."""

DECODERS: Members = {
    "gpt2": ("GPT2LMHeadModel", _GPT2),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        SPECIAL | _NEO | {"hidden_size": 64, "vocab_size": 128, "max_position_embeddings": 64},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", TEXT),
    "gptj": ("GPTJForCausalLM", _GPT2 | {"rotary_dim": 8}),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", _GPT2),
    "codegen": ("CodeGenForCausalLM", _GPT2 | {"n_ctx": 64, "rotary_dim": 8}),
    "ctrl": ("CTRLLMHeadModel", _GPT2 | {"dff": 128}),
    "opt": ("OPTForCausalLM", TEXT | {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "bloom": ("BloomForCausalLM", {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128}),
    "mpt": ("MptForCausalLM", {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "vocab_size": 128}),
    "falcon": ("FalconForCausalLM", TEXT),
    "falcon_new": ("FalconForCausalLM", TEXT | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_alibi": ("FalconForCausalLM", TEXT | {"alibi": True, "multi_query": False, "parallel_attn": False}),
    "xglm": (
        "XGLMForCausalLM",
        {"d_model": 64, "num_layers": 2, "attention_heads": 4, "ffn_dim": 128, "vocab_size": 128}
        | {"max_position_embeddings": 64},
    ),
    "biogpt": ("BioGptForCausalLM", TEXT),
    "llama_mha": ("LlamaForCausalLM", DECODER | {"num_key_value_heads": 4}),
    "llama_gqa": ("LlamaForCausalLM", DECODER),
    "llama_tied": ("LlamaForCausalLM", DECODER | {"tie_word_embeddings": True}),
    "diffllama": ("DiffLlamaForCausalLM", DECODER | {"head_dim": 16}),
    "mistral": ("MistralForCausalLM", DECODER),
    "qwen2": ("Qwen2ForCausalLM", DECODER),
    "qwen3": ("Qwen3ForCausalLM", DECODER | {"head_dim": 16}),
    "gemma": ("GemmaForCausalLM", DECODER | {"head_dim": 16}),
    "gemma2": ("Gemma2ForCausalLM", DECODER | {"head_dim": 16}),
    "gemma3": ("Gemma3ForCausalLM", DECODER | {"head_dim": 16}),
    "phi": ("PhiForCausalLM", DECODER | {"num_key_value_heads": 4}),
    "phi3": ("Phi3ForCausalLM", DECODER),
    "stablelm": ("StableLmForCausalLM", DECODER),
    "olmo": ("OlmoForCausalLM", DECODER),
    "olmo2": ("Olmo2ForCausalLM", DECODER),
    "smollm3": ("SmolLM3ForCausalLM", DECODER),
    "cohere": ("CohereForCausalLM", DECODER),
    "cohere2": ("Cohere2ForCausalLM", DECODER | {"head_dim": 16}),
    "granite": ("GraniteForCausalLM", DECODER),
    "glm": ("GlmForCausalLM", DECODER | {"head_dim": 16}),
    "glm4": ("Glm4ForCausalLM", DECODER | {"head_dim": 16}),
    "helium": ("HeliumForCausalLM", DECODER | {"head_dim": 16}),
    "nemotron": ("NemotronForCausalLM", DECODER | {"head_dim": 16}),
    "persimmon": ("PersimmonForCausalLM", TEXT | SPECIAL),
    "starcoder2": ("Starcoder2ForCausalLM", DECODER),
    "minicpm3": ("MiniCPM3ForCausalLM", DECODER | _LATENT | {"head_dim": 8, "dim_model_base": 16}),
    "deepseek_v2": (
        "DeepseekV2ForCausalLM",
        DECODER | _EXPERTS | _LATENT | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "head_dim": 8},
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        DECODER
        | _EXPERTS
        | _LATENT
        | {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "head_dim": 8},
    ),
    "mixtral": ("MixtralForCausalLM", DECODER | {"num_local_experts": 4}),
    "granitemoe": ("GraniteMoeForCausalLM", DECODER | {"num_local_experts": 4}),
    "phimoe": ("PhimoeForCausalLM", DECODER | {"num_local_experts": 4}),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        DECODER | _EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 64},
    ),
    "qwen3_moe": ("Qwen3MoeForCausalLM", DECODER | _EXPERTS | {"num_local_experts": 4, "head_dim": 16}),
    "olmoe": ("OlmoeForCausalLM", DECODER | {"num_experts": 4, "num_experts_per_tok": 2}),
    "gpt_oss": ("GptOssForCausalLM", DECODER | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}),
    "mamba": ("MambaForCausalLM", _STATES | {"time_step_rank": 8}),
    "falcon_mamba": ("FalconMambaForCausalLM", _STATES | {"time_step_rank": 8}),
    "mamba2": ("Mamba2ForCausalLM", _STATES | {"num_heads": 8, "head_dim": 16, "n_groups": 2, "chunk_size": 8}),
    "rwkv": (
        "RwkvForCausalLM",
        SPECIAL | {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 128, "use_cache": False},
    ),
    "recurrent_gemma": (
        "RecurrentGemmaForCausalLM",
        {k: v for k, v in DECODER.items() if k != "max_position_embeddings"}
        | {"num_hidden_layers": 3, "num_key_value_heads": 1, "lru_width": 64, "attention_window_size": 16},
    ),
    "bamba": (
        "BambaForCausalLM",
        DECODER
        | _HYBRID
        | {
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 8,
            "attn_layer_indices": [1],
        },
    ),
    "jamba": (
        "JambaForCausalLM",
        DECODER | _HYBRID | {"mamba_dt_rank": 8, "num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    ),
    "lfm2": (
        "Lfm2ForCausalLM",
        DECODER | {"block_multiple_of": 8, "layer_types": ["conv", "full_attention"]},
    ),
}
"""Decoders."""

ENCODER_DECODERS: Members = {
    "t5": ("T5ForConditionalGeneration", _T5),
    "t5_gated": ("T5ForConditionalGeneration", _T5 | {"feed_forward_proj": "gated-gelu"}),
    "mt5": ("MT5ForConditionalGeneration", _T5),
    "umt5": ("UMT5ForConditionalGeneration", _T5),
    "longt5": ("LongT5ForConditionalGeneration", _T5 | {"local_radius": 4}),
    "switch": (
        "SwitchTransformersForConditionalGeneration",
        _T5 | {"num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    ),
    "bart": ("BartForConditionalGeneration", _SEQ2SEQ),
    "mbart": ("MBartForConditionalGeneration", _SEQ2SEQ),
    "pegasus": ("PegasusForConditionalGeneration", _SEQ2SEQ),
    "marian": (
        "MarianMTModel",
        _SEQ2SEQ | {"decoder_vocab_size": 128, "pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 2},
    ),
    "m2m_100": ("M2M100ForConditionalGeneration", _SEQ2SEQ),
    "plbart": ("PLBartForConditionalGeneration", _SEQ2SEQ),
    "blenderbot": ("BlenderbotForConditionalGeneration", _SEQ2SEQ),
    "blenderbot_small": ("BlenderbotSmallForConditionalGeneration", _SEQ2SEQ),
    "led": (
        "LEDForConditionalGeneration",
        ENCODER_DECODER
        | {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64, "attention_window": 8},
    ),
}
"""Encoder-decoders."""

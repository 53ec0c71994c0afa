"""A tiny random StableAudioPipeline in a folder, with all of its parts; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import torch

from tiny_families import OOBLECK


def save_tiny_pipeline(folder: Path) -> None:
    from diffusers import (
        AutoencoderOobleck,
        EDMDPMSolverMultistepScheduler,
        StableAudioDiTModel,
        StableAudioPipeline,
        StableAudioProjectionModel,
    )
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    torch.manual_seed(0)
    words = ["<pad>", "</s>", "<unk>", "▁a", "▁slow", "▁piano"]
    tokenizer = T5Tokenizer(vocab=[(word, -float(rank)) for rank, word in enumerate(words)], extra_ids=0)
    tokenizer.model_max_length = 8
    pipe = StableAudioPipeline(
        vae=AutoencoderOobleck(**OOBLECK),
        text_encoder=T5EncoderModel(
            T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ),
        projection_model=StableAudioProjectionModel(
            text_encoder_dim=16, conditioning_dim=16, min_value=0, max_value=512
        ),
        tokenizer=tokenizer,
        transformer=StableAudioDiTModel(
            in_channels=OOBLECK["decoder_input_channels"],
            out_channels=OOBLECK["decoder_input_channels"],
            num_key_value_attention_heads=1,
            cross_attention_dim=16,
            cross_attention_input_dim=16,
            global_states_input_dim=32,
            time_proj_dim=8,
            sample_size=24,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
        ),
        scheduler=EDMDPMSolverMultistepScheduler(prediction_type="v_prediction", sigma_schedule="exponential"),
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)

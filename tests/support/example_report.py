"""autoencoder.json of an autoencoder that does not exist, with values that are easy to find again."""

from __future__ import annotations

from typing import Any

from reencoder_eval.config import AutoencoderEvalConfig
from reencoder_eval.tables.paper import TABLE_1
from reencoder_pipeline.config import load_config

METRICS = ("stft_d_full", "stft_d_low", "stft_d_high", "mel_d_full", "mel_d_low", "mel_d_high", "si_sdr")


DEFAULTS = load_config(None, AutoencoderEvalConfig).model_dump(mode="json")


def cell(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.125, "high": value + 0.125, "median": value, "clips": 6, "tracks": 3}


def make_report(*, name: str = "mine") -> dict[str, Any]:
    """As `evaluate` writes it, with values that are easy to find again."""
    channels = {
        "mean": [0.0, 1.0],
        "std": [1.0, 2.0],
        "excess_kurtosis": [0.5, None],
        "lag1": [0.1, 0.3],
        "upper_half": [0.4, 0.5],
        "correlation": [[1.0, 0.0], [0.0, 1.0]],
        "effective_rank": 1.755,
        "effective_rank_correlation": 2.0,
        "mean_predictor_l1": 0.77,
    }
    return {
        "format": "reencoder-autoencoder-1",
        "name": name,
        "autoencoder": {
            "autoencoder": name, "weights": "ab" * 32, "sample_rate": 44_100, "hop": 1024, "channels": 2,
            "stereo": "per_channel", "frame_rate": 43.066, "context": 17, "local": True, "licence": "MIT",
        },
        "weights": {
            "file": "a.safetensors", "bytes": 12_300_000, "sha256": "ab" * 32,
            "header": {"reencoder": {"training": {"steps": 4321, "seed": 7, "losses": {"kl": 2e-5}}}},
            "run": None,
        },
        "size": {
            "parameters": 3_450_000, "encoder_parameters": 1_230_000, "decoder_parameters": 2_220_000,
            "encode_gflops": 1.25, "decode_gflops": 2.5, "times_real_time": 6.54, "machine": "some CPU",
        },
        "settings": {**DEFAULTS, "name": name, "split": "valid", "out": "out/x"},
        "clips": {"count": 6, "tracks": 3, "silent": 1, "failures": 0, "ids": []},
        "scores": {
            "autoencoder": {metric: cell(1.5 + place) for place, metric in enumerate(METRICS)},
            "sinc": {metric: cell(11.5 + place) for place, metric in enumerate(METRICS)},
        },
        "paper": {"label": TABLE_1[0].label, "gflops": TABLE_1[0].gflops, **TABLE_1[0].values},
        "diagnostics": {
            "key": "k", "version": 1, "seed": 0, "clips": ["a", "b", "c"], "samples": 220_500, "channels": channels,
            "posterior": {"sigma": [0.11, 0.95], "unused": 1, "nats_per_frame": 123.4},
            "gain": {"gain": 0.5, "error": 0.321, "affine_error": 0.123},
            "mixing": {"clips": 2, "error": 0.234, "one_side": 0.55, "stft_d_mixed": 1.61, "stft_d_mono": 1.51},
            "high_band": {"l1": [0.2, 0.9], "order": [1, 0], "carrying": 1},
            "shift_l1": [[1, 0.05], [16, 0.5], [256, 0.9], [512, 1.0]],
            "noise_stft_d": [[0.0, 1.5], [0.05, 1.51], [0.1, 1.6], [0.2, 1.8], [0.5, None]],
            "proximity": {
                "spearman": 0.87, "lowest": 0.7, "highest": 0.95, "perturbations": 21,
                "kinds": [{"kind": "gain", "latent_l1": 0.15, "stft_d": 0.66}],
            },
        },
        "versions": {"python": "3.11.1", "torch": "2.14.1"},
    }  # fmt: skip

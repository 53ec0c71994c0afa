"""Names of systems: how the rows of scores.jsonl are told apart."""

from __future__ import annotations

CEILING_ROW = "autoencoder"  # what a module could reach
MODULES = "ours:"  # how the rows of modules begin, which start from the row START_ROWS
AFTER = "autoencoder+"  # how the rows of baselines after the autoencoder begin
LAMBDA = ":lambda="
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the oracle's condition: the paper's lambda in figure 3
CONDITIONS = {0.0: "random, of the prior", 1.0: "the oracle's, of the reference"}
INPUT_ROWS = {"bwe": "sinc", "m2s": "mono_copy"}  # the input as it is, no autoencoder
START_ROWS = {"bwe": "autoencoder_low_band", "m2s": "autoencoder_mono"}  # the input through the autoencoder, no module

"""Names the licence terms of known weights; `reencoder-cache build` and `plan` show them."""

from __future__ import annotations

UNVERIFIED = "unverified: check the card of the weights"

STABILITY = "Stability AI Community License: read its terms, commercial use is limited"
NON_COMMERCIAL = "CC-BY-NC 4.0: not for commercial use"

# By the start of a hub id (lower case), or by family if all its public weights share their terms.
BY_ID = {
    "stabilityai/": STABILITY,
    "ace-step/ace-step": "MIT",
    "descript/": "MIT",
    "sonycslparis/": NON_COMMERCIAL,
}
BY_FAMILY = {
    "AutoencoderSAME": f"{STABILITY} (if these are Stability AI's weights)",
    "MMAudioVAE": f"{NON_COMMERCIAL} (if these are MMAudio's weights)",
    "DacModel": "MIT (if these are Descript's weights)",
    "music2latent": NON_COMMERCIAL,
    "codicodec": NON_COMMERCIAL,
}


def licence_of(name: str, family: str) -> str:
    """The licence terms as text, or `UNVERIFIED`. `name` is a hub id or a path."""
    known = (terms for start, terms in BY_ID.items() if name.lower().startswith(start))
    return next(known, BY_FAMILY.get(family, UNVERIFIED))

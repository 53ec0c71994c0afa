"""Terms of known weights, as far as somebody has read them: what `reencoder-cache build` shows."""

from __future__ import annotations

UNVERIFIED = "unverified: check the card of the weights"

STABILITY = "Stability AI Community License: read its terms, commercial use is limited"
NON_COMMERCIAL = "CC-BY-NC 4.0: not for commercial use"

# By hub id (lower case), the start of an id, or the family where all public weights share their terms.
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
    """The terms, or what to do where they are not known. `name` is a hub id or a path."""
    known = (terms for start, terms in BY_ID.items() if name.lower().startswith(start))
    return next(known, BY_FAMILY.get(family, UNVERIFIED))

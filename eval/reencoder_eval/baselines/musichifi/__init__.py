"""MusicHiFi (Zhu et al. 2024, arXiv 2403.10493), written from the paper: bandwidth extension and mono to stereo.

The generator has 46 M parameters and 111 GFLOPs per second of audio, as the paper says; its sizes follow from that."""

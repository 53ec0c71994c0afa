"""Our implementation of MusicHiFi (Zhu et al. 2024, arXiv 2403.10493): bandwidth extension and mono to stereo.

The paper gives 46 M parameters and 111 GFLOPs per second of audio; the sizes of the generator follow from these."""

"""MusicHiFi (Zhu et al. 2024, arXiv 2403.10493), written anew: its bandwidth extension and mono-to-stereo upmixing.

There are neither code nor weights by its authors. The generator's sizes are those that fit all of the paper's numbers:
46 M parameters, 111 GFLOPs per second of audio.
"""

"""Our implementation of Aero (Mandel, Tal and Adi, "AERO: Audio Super Resolution in the Spectral Domain", 2023)."""

"""One file for each family of autoencoders."""

"""Released modules: finding, streaming, export, cards."""

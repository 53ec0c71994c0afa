"""Second floor: modules and baselines become numbers and sound; the only room that decodes."""

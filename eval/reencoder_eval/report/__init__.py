"""Pages, figures and cards for people to read and listen to."""

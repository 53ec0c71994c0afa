"""Files and objects that are whole or not there, in a folder or behind a URL."""

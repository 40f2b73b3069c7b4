"""One module per verb, imported when asked for."""

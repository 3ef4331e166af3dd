"""Why sizes are valid."""

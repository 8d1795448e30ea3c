"""Studies: what one is, where they are found, what they are about."""

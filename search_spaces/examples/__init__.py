"""How to bring one's own training: run these by path."""

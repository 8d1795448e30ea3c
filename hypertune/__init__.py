"""Hypertune: ask a question about a model as a search space, and get an answer that holds."""

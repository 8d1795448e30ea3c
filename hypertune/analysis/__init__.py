"""Answers: from the journal to what can be said."""

from hypertune.analysis.summary import Score, Summary, summarize

__all__ = ["Score", "Summary", "summarize"]

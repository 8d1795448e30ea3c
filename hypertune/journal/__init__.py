"""What is remembered: one SQLite file a study, and what is read from it."""

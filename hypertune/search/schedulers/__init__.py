"""Schedulers decide which trial goes on, and to which epoch."""

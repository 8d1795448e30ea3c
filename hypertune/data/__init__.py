"""Data sets. They come with the installation, and import nothing else of ours."""

from hypertune.data.series import SERIES, Series, SeriesSplit, load_series

__all__ = ["SERIES", "Series", "SeriesSplit", "load_series"]

"""Data sets. They come with the installation, and import nothing else of ours."""

from hypertune.data.own import csv_samples, csv_series, npz_samples
from hypertune.data.samples import DATA_SETS, FURTHER, DataSet, Samples
from hypertune.data.series import SERIES, Series, SeriesSplit
from hypertune.data.split import SPLITS, LeakError, check_leaks, split_rows

__all__ = [
    "DATA_SETS",
    "FURTHER",
    "SERIES",
    "SPLITS",
    "DataSet",
    "LeakError",
    "Samples",
    "Series",
    "SeriesSplit",
    "check_leaks",
    "csv_samples",
    "csv_series",
    "npz_samples",
    "split_rows",
]

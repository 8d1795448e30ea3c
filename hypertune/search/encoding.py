"""A space as points of the unit cube, whole arrays at a time, as models need it.

A *point* has one coordinate in [0, 1) per parameter of the space, active or not. Its *features*
are what tells configs apart: the coordinates of the active parameters, those of equal parameters
in different branches in one and the same column, and an indicator for each choice.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hypertune.core.space import Categorical, Flat, Number, Parameter, Space, Value

Floats = NDArray[np.float64]

_LONG = 1000  # more values than this are a continuum to a model


class Encoding:
    """Points and features of a space.

    Attributes:
        n_parameters: Coordinates of a point.
        groups: For each column of the features, the number of the feature that it is part of,
            shape (column,). A choice is one feature of several columns.
        choices: Which coordinates of a point are choices, shape (parameter,).
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._parameters = space.parameters
        self._places = {p.key: i for i, p in enumerate(self._parameters)}
        self.n_parameters = len(self._parameters)
        self.choices = np.array([isinstance(p, Categorical) for p in self._parameters])
        self._grids = [_grid(p) for p in self._parameters]
        columns: dict[object, int] = {}
        groups: list[int] = []
        self._columns: list[int] = []  # per parameter, the first of its columns
        for parameter in self._parameters:
            meaning = _meaning(parameter)
            if meaning not in columns:
                columns[meaning] = len(groups)
                width = parameter.n_values if isinstance(parameter, Categorical) else 1
                groups += [len(columns) - 1] * width
            self._columns.append(columns[meaning])
        self.groups = np.array(groups)
        selecting = {p.condition.key for p in self._parameters if p.condition is not None}
        self._selects = np.array([p.key in selecting for p in self._parameters])
        self._varies = np.array([p.n_values != 1 for p in self._parameters])

    def points(self, flats: Sequence[Flat]) -> Floats:
        """Return the points of flat configs, shape (config, parameter); .5 where inactive."""
        points = np.full((len(flats), self.n_parameters), 0.5)
        for row, flat in zip(points, flats, strict=True):
            for key, value in flat.items():
                place = self._places[key]
                row[place] = self._parameters[place].to_unit(value)
        return points

    def flat(self, point: Floats, given: Mapping[str, Value]) -> Flat:
        """Return the flat config of a point, shape (parameter,), with some values given by key."""
        return self._space.build(
            lambda p: (
                given[p.key] if p.key in given else p.from_unit(float(point[self._places[p.key]]))
            )
        )

    def given(self, points: Floats, levels: Mapping[str, Value]) -> Floats:
        """Return points with some parameters, by key, at these values."""
        points = points.copy()
        for key, value in levels.items():
            place = self._places[key]
            points[:, place] = self._parameters[place].to_unit(value)
        return points

    def features(self, points: Floats) -> Floats:
        """Return the features of points, shape (point, column).

        Choices differ by a distance of one, numbers by at most one; an inactive parameter sits in
        the middle of its range.
        """
        features = np.zeros((len(points), len(self.groups)))
        rows = np.arange(len(points))
        active = self._active(points)
        for i, parameter in enumerate(self._parameters):
            on, column = active[:, i], self._columns[i]
            if isinstance(parameter, Categorical):
                indices = _index(points[:, i], parameter)
                features[rows[on], column + indices[on]] = math.sqrt(0.5)
            else:
                features[on, column] = _rounded(points[on, i], self._grids[i]) - 0.5
        return features

    def branches(self, points: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the branch of each point, and in how many parameters configs differ within it.

        Returns:
            A number for each branch of the space, shape (point,); and how many active parameters
            there are that neither select a branch nor have one value only, shape (point,).
        """
        active = self._active(points)
        branch = np.zeros(len(points), dtype=np.int64)
        for i in np.flatnonzero(self._selects):
            chosen = self._parameters[i]
            assert isinstance(chosen, Categorical)
            option = np.where(active[:, i], 1 + _index(points[:, i], chosen), 0)
            branch = branch * (1 + len(chosen.choices)) + option
        return branch, (active & self._varies & ~self._selects).sum(axis=1)

    def _active(self, points: Floats) -> NDArray[np.bool_]:
        """Return which parameters the configs of points have, shape (point, parameter)."""
        active = np.ones(points.shape, dtype=bool)
        for i, parameter in enumerate(self._parameters):
            if parameter.condition is not None:
                parent = self._places[parameter.condition.key]
                chosen = self._parameters[parent]
                assert isinstance(chosen, Categorical)
                label = chosen.index(parameter.condition.label)
                active[:, i] = active[:, parent] & (_index(points[:, parent], chosen) == label)
        return active


def _meaning(parameter: Parameter) -> object:
    """Return what is equal for parameters that mean the same in different branches."""
    if isinstance(parameter, Categorical):
        return parameter.name, repr(parameter.choices)
    assert isinstance(parameter, Number)
    return parameter.name, parameter.low, parameter.high, parameter.log, parameter.step


def _grid(parameter: Parameter) -> tuple[Floats, Floats] | None:
    """Return the coordinates of a number's values, and where one gives way to the next.

    None if there are too many to list.
    """
    n = parameter.n_values
    if isinstance(parameter, Categorical) or n is None or n > _LONG:
        return None
    assert isinstance(parameter, Number)
    values = list(parameter.values())
    places = [parameter.to_unit(value) for value in values]
    if parameter.log:
        edges = [parameter.to_unit(low / 2 + high / 2) for low, high in pairwise(values)]
    else:
        edges = [(low + high) / 2 for low, high in pairwise(places)]
    return np.array(places), np.array(edges)


def _rounded(coordinates: Floats, grid: tuple[Floats, Floats] | None) -> Floats:
    if grid is None:
        return coordinates
    values, edges = grid
    rounded: Floats = values[np.searchsorted(edges, coordinates, side="right")]
    return rounded


def _index(coordinates: Floats, parameter: Categorical) -> NDArray[np.int64]:
    n = len(parameter.choices)
    return np.minimum((coordinates * n).astype(np.int64), n - 1)

"""Values as they are read: what would become other numbers is refused, what is none is counted."""

# Over 300 lines: every rule for the numbers of a dataset, in the order in which they apply.
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hermes.aeriel.files._links import attributes_of, data_error
from hermes.errors import OutputError, ParameterError

# What `finite` may ask for.
SIDES = ("inputs", "outputs")
# Every whole number up to here is a float64.
EXACT = 2**53
# Attributes that netCDF and its kin give to datasets whose values are not what they look like.
_SCALES = {"scale_factor": 1.0, "add_offset": 0.0}
_FILLS = ("_FillValue", "missing_value")
# What netCDF fills datasets of f4, f8, i2 to i8 and u2 to u8 with where nobody says otherwise.
_NETCDF_FILLS = (
    9.969209968386869e36,
    *(-32767, -2147483647, -9223372036854775806),
    *(65535, 4294967295, 18446744073709551614),
)
_LIMITS = ("valid_range", "valid_min", "valid_max")
_MATLAB_EMPTY = "MATLAB_empty"
# Attributes without which values would be taken for others.
MEANINGS = (*_SCALES, *_FILLS, *_LIMITS, "_Unsigned", _MATLAB_EMPTY)


@dataclass(kw_only=True)
class InputValues:
    """Looks at the values of an input.

    Parameters
    ----------
    dataset
        Where they come from.
    dtype
        What they are read as.
    cast
        Whether they may be rounded.
    finite
        Whether each has to be finite.

    Attributes
    ----------
    n_not_finite : int
        How many were not, each counted once.
    """

    dataset: h5py.Dataset
    dtype: np.dtype[Any]
    cast: bool = False
    finite: bool = False
    _fills: list[Any] = field(default_factory=list)
    _limits: tuple[float, float] = (-math.inf, math.inf)
    # By where they were read: what is read again, for a sequence that is sent again, counts once.
    _found: dict[Any, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fills = fill_values(self.dataset)
        self._limits = limits(self.dataset)

    @property
    def n_not_finite(self) -> int:
        """How many values were not finite."""
        return sum(self._found.values())

    @property
    def is_converted(self) -> bool:
        """Whether values are read in their own dtype first, and looked at before they change."""
        given = self.dataset.dtype
        if given == self.dtype or given.kind not in "iuf" or self.dtype.kind != "f":
            return False
        return self.cast or loses_digits(given, self.dtype)

    def convert(self, row: int, given: NDArray[Any], array: NDArray[Any]) -> None:
        """Convert values from their own dtype.

        Parameters
        ----------
        row
            The first row, or window.
        given, array
            The values, and where they go.

        Raises
        ------
        DataError
            A whole number is none of the floating-point ones, and may not be rounded.
        """
        if not self.cast:
            large = given[(given > EXACT) | (given < -EXACT)]
            inexact = next((value for value in large.tolist() if int(float(value)) != value), None)
            if inexact is not None:
                problem = f"{inexact}, near row {row}, is not a {self.dtype} and would be rounded"
                advice = "give cast to round it, or export the model for integers"
                raise data_error(self.dataset, f"{problem}; {advice}")
        with np.errstate(over="ignore"):  # `check` says which
            array[...] = given

    def check(
        self,
        key: Any,
        row: int,
        array: NDArray[Any],
        given: NDArray[Any],
        n_known: int = 0,
    ) -> None:
        """Look at values that were read.

        Parameters
        ----------
        key
            Names the read: the same one may be made again.
        row
            The first row, or window.
        array
            The values as they were read.
        given
            The values before they were converted.
        n_known
            How many along the last axis were read before, and are not counted again.

        Raises
        ------
        DataError
            One is a fill value, was made infinite, or is not finite and has to be.
        """
        for fill in self._fills:
            if np.any(given == (given.dtype.type(fill) if given.dtype.kind == "f" else fill)):
                problem = f"has missing values ({fill}, its fill value) near row {row}"
                raise data_error(self.dataset, f"{problem}; leave those rows out, or fill them")
        low, high = self._limits
        is_low = low > -math.inf and np.any(given < low)
        if is_low or (high < math.inf and np.any(given > high)):
            problem = f"has values outside of its valid range, {low} to {high}, near row {row}"
            raise data_error(
                self.dataset, f"{problem}; leave those rows out, or mend the attribute"
            )
        if array.dtype.kind != "f" or (n := count_not_finite(array)) == 0:
            return
        if given is not array:
            overflows = np.isinf(array) & np.isfinite(given)
            if overflows.any():
                problem = (
                    f"{given[overflows].flat[0]}, near row {row}, is too large for {array.dtype}"
                )
                raise data_error(
                    self.dataset, f"{problem}, and would become infinite; scale the data"
                )
        if self.finite:
            problem = f"has values that are not finite, {n} of them near row {row}"
            raise data_error(self.dataset, f"{problem}; finite asks for none")
        self._found[key] = count_not_finite(array[..., n_known:])


@dataclass(kw_only=True)
class OutputValues:
    """Counts the values of outputs that are not finite.

    Parameters
    ----------
    file
        What they are written to.
    finite
        Whether each has to be finite.

    Attributes
    ----------
    n_not_finite : dict
        How many there were, by output name.
    """

    file: str
    finite: bool = False
    n_not_finite: dict[str, int] = field(default_factory=dict)

    def check(self, name: str, row: int, array: NDArray[Any]) -> None:
        """Look at rows of an output.

        Raises
        ------
        OutputError
            A value is not finite and has to be.
        """
        n = count_not_finite(array) if array.dtype.kind == "f" else 0
        if n and self.finite:
            problem = f"output {name!r} has values that are not finite, {n} of them near row {row}"
            raise OutputError(self.file, f"{problem}; finite asks for none")
        self.n_not_finite[name] = self.n_not_finite.get(name, 0) + n


def parse_finite(text: str) -> tuple[str, ...]:
    """Return what has to be finite, of a text such as ``inputs,outputs``.

    Raises
    ------
    ParameterError
        Something else is named.
    """
    finite = tuple(side.strip() for side in text.split(",")) if text else ()
    for side in finite:
        if side not in SIDES:
            raise ParameterError("finite", f"{side!r} is not one of {', '.join(SIDES)}")
    return tuple(sorted(set(finite)))


def count_not_finite(array: NDArray[Any]) -> int:
    """Return how many values are NaN or infinite."""
    if array.dtype == np.float16:
        # numpy's isfinite is twenty times slower for these.
        return int(np.count_nonzero((array.view(np.uint16) & 0x7C00) == 0x7C00))
    finite = np.isfinite(array)
    return 0 if finite.all() else int(array.size - np.count_nonzero(finite))


def loses_digits(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Tell whether whole numbers are read as floating-point ones of as many bits."""
    return given.kind in "iu" and given.itemsize == 8 and wanted == np.float64


def check_scales(dataset: h5py.Dataset) -> None:
    """Raise DataError where attributes say that values are to be changed, or are none."""
    attributes = attributes_of(dataset)
    if not attributes:
        return
    if np.any(attributes.get(_MATLAB_EMPTY, 0)):
        problem = "is an empty array of MATLAB, which stores its shape in place of values"
        raise data_error(dataset, problem)
    given = {
        name: attributes[name]
        for name, neutral in _SCALES.items()
        if name in attributes and np.any(np.asarray(attributes[name]) != neutral)
    }
    if dataset.dtype.kind == "i" and str(text_of(attributes.get("_Unsigned"))).lower() == "true":
        given["_Unsigned"] = "true"
    for name, value in given.items():
        problem = f"its attribute {name} is {value}, which is not applied"
        raise data_error(dataset, f"{problem}; store the values that it stands for")


def check_meanings(dataset: h5py.Dataset, source: h5py.Dataset, where: str) -> None:
    """Raise DataError where a source of a dataset says of its values what the dataset does not."""
    for name in MEANINGS:
        if name not in source.attrs:
            continue
        if name not in dataset.attrs or not np.array_equal(dataset.attrs[name], source.attrs[name]):
            problem = f"its source {where} has the attribute {name} {source.attrs[name]}"
            raise data_error(dataset, f"{problem}, which it has not; give it the same")


def fill_values(dataset: h5py.Dataset) -> list[Any]:
    """Return what a dataset has in place of values that are missing, NaN left out."""
    attributes = attributes_of(dataset)
    found = [np.ravel(attributes[name]) for name in _FILLS if name in attributes]
    numbers = [
        value for values in found for value in values if np.asarray(value).dtype.kind in "iuf"
    ]
    if dataset.dtype.kind in "iuf" and dataset.fillvalue.item() in _NETCDF_FILLS:
        numbers.append(dataset.fillvalue)
    return [value for value in numbers if np.isfinite(value)]


def limits(dataset: h5py.Dataset) -> tuple[float, float]:
    """Return the lowest and the highest value that a dataset says to be valid.

    Raises
    ------
    DataError
        An attribute makes no sense.
    """
    low, high = -math.inf, math.inf
    attributes = attributes_of(dataset)
    for name in _LIMITS:
        if name not in attributes or dataset.dtype.kind not in "iuf":
            continue
        found = np.ravel(attributes[name])
        if found.dtype.kind not in "iuf" or len(found) != (2 if name == "valid_range" else 1):
            problem = f"its attribute {name} is {attributes[name]!r}, no number"
            raise data_error(dataset, problem)
        low = found[0].item() if name != "valid_max" else low
        high = found[-1].item() if name != "valid_min" else high
    return low, high


def units_of(dataset: h5py.Dataset) -> str:
    """Return the units that a dataset says its values have; nothing where it does not say."""
    attributes = attributes_of(dataset)
    return str(text_of(attributes.get("units", attributes.get("unit", ""))))


def text_of(value: Any) -> Any:
    """Return an attribute that may be a text, or bytes, as it is read."""
    value = np.ravel(value)[0] if np.size(value) == 1 else value
    return value.decode(errors="replace") if isinstance(value, bytes) else value

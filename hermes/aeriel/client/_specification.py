"""A model's inputs and outputs as the server describes them, and the check of a request."""

# Over 300 lines: the specification of a model, with the check of a request against it.
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import triton_to_np_dtype

from hermes.errors import InputError, ParameterError

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """A server's metadata.

    Parameters
    ----------
    name
        Its ``--id``.
    version
        The version of Triton.
    extensions
        Its extensions of KServe's protocol.
    """

    name: str
    version: str
    extensions: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class TensorSpecification:
    """One input or output of a model.

    Parameters
    ----------
    name
        The tensor's name.
    datatype
        Triton's name of the element type: ``FP32``, ``INT64``, ``BYTES``, …
    shape
        The shape without the batch dimension; -1 for any length.
    optional
        An input that a request may leave out.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype of the elements; ``object`` for strings.

        Of BF16 it is ``ml_dtypes.bfloat16`` for an input; outputs arrive as float32.
        """
        dtype: np.dtype[Any] = np.dtype(triton_to_np_dtype(self.datatype))
        return dtype

    def accepts_shape(self, shape: Sequence[int]) -> bool:
        """Return whether an array of this shape, without its batch dimension, fits."""
        return len(shape) == len(self.shape) and all(
            wanted in (-1, given) for wanted, given in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class ModelSpecification:
    """A model as its server describes it.

    Parameters
    ----------
    name, version
        The model, and the version that answers.
    platform
        Triton's name of the platform or backend.
    inputs, outputs
        The tensors by name.
    max_batch_size
        The largest number of rows of a request; 0 for a model without a batch dimension.
    stateful
        Whether the model, or a step of the ensemble, has a sequence batcher.
    n_instances
        How many executions the server can run at once.
    max_sequences
        How many sequences the server keeps at once; 0 for a model without a state.
    """

    name: str
    version: str
    platform: str
    inputs: Mapping[str, TensorSpecification]
    outputs: Mapping[str, TensorSpecification]
    max_batch_size: int
    stateful: bool = False
    n_instances: int = 1
    max_sequences: int = 0

    def check_outputs(self, names: Iterable[str]) -> None:
        """Raise ParameterError where the model has no output of one of these names."""
        for name in names:
            if name not in self.outputs:
                problem = (
                    f"model {self.name!r} has no output {name!r}; it has {sorted(self.outputs)}"
                )
                raise ParameterError("outputs", problem)

    @classmethod
    def from_config(cls, config: Any, steps: Sequence[Any] = ()) -> ModelSpecification:
        """Return the specification in a configuration: a ``config.pbtxt``, or a server's.

        Parameters
        ----------
        config
            The configuration; its version is the server's choice.
        steps
            The configurations of the steps, for an ensemble, and of theirs.

        Raises
        ------
        ValueError
            A tensor has an invalid shape or element type.
        """
        limits = [_max_sequences(one) for one in (config, *steps) if _keeps_state(one)]
        return cls(
            name=config.name,
            version="",
            platform=config.platform or config.backend,
            inputs={tensor.name: _configured(tensor) for tensor in config.input},
            outputs={tensor.name: _configured(tensor) for tensor in config.output},
            max_batch_size=config.max_batch_size,
            stateful=bool(limits),
            n_instances=max(1, sum(_instances(group) for group in config.instance_group)),
            max_sequences=min(limits, default=0),
        )

    @classmethod
    def from_server(
        cls, metadata: Any, config: Any, steps: Sequence[Any] = ()
    ) -> ModelSpecification:
        """Return the specification in the answers to ``ModelMetadata`` and ``ModelConfig``.

        Parameters
        ----------
        metadata, config
            The answers.
        steps
            The configurations of the steps, for an ensemble, and of theirs.
        """
        described = cls.from_config(config, steps)
        optional = described.optional_inputs

        def tensors(answered: Any) -> dict[str, TensorSpecification]:
            return {
                tensor.name: TensorSpecification(
                    name=tensor.name,
                    datatype=tensor.datatype,
                    shape=tuple(tensor.shape)[1 if described.max_batch_size > 0 else 0 :],
                    optional=tensor.name in optional,
                )
                for tensor in answered
            }

        return replace(
            described,
            name=metadata.name,
            version=max(metadata.versions, key=_version_number, default=""),
            platform=metadata.platform,
            inputs=tensors(metadata.inputs),
            outputs=tensors(metadata.outputs),
        )

    @property
    def optional_inputs(self) -> frozenset[str]:
        """The names of the inputs that a request may leave out."""
        return frozenset(name for name, tensor in self.inputs.items() if tensor.optional)

    def by_name(self, inputs: Arrays | NDArray[Any]) -> Arrays:
        """Return the inputs of a request by name; an array alone is the only input.

        Raises
        ------
        InputError
            An array alone was given, and the model has several inputs.
        """
        if not isinstance(inputs, np.ndarray):
            return inputs
        names = list(self.inputs.keys() - self.optional_inputs or self.inputs)
        if len(names) == 1:
            return {names[0]: inputs}
        given = f"an array of shape {inputs.shape} without a name"
        wanted = f"a dict with an array for each of {', '.join(self.inputs)}"
        raise InputError(model=self.name, tensor="", given=given, wanted=wanted)

    def check(self, arrays: Arrays) -> int:
        """Return the number of rows of a request, after checking its arrays.

        Parameters
        ----------
        arrays
            An array for each input: shape ``(rows, *shape)`` for a model with a batch dimension,
            ``shape`` for one without (then the request counts as one row).

        Raises
        ------
        InputError
            An input is missing, unknown, of another dtype or shape, or has too many rows.
        """
        for name in arrays.keys() - self.inputs.keys():
            raise self._misfit(name, "an array", f"one of the inputs {sorted(self.inputs)}")
        rows: int | None = None
        for name, tensor in self.inputs.items():
            if name not in arrays:
                if tensor.optional:
                    continue
                raise self._misfit(name, "nothing", f"an array of {_described(tensor)}")
            rows = self._check_one(tensor, arrays[name], rows)
        return 1 if rows is None else rows

    def _check_one(self, tensor: TensorSpecification, array: NDArray[Any], rows: int | None) -> int:
        if not isinstance(array, np.ndarray):
            raise self._misfit(tensor.name, type(array).__name__, "a numpy array")
        # Asked of the array itself: numpy.ma is imported on use, and a process that forks while a
        # thread imports leaves its child a lock that nobody opens.
        if n_masked := np.count_nonzero(getattr(array, "mask", False)):
            given = f"a masked array with {n_masked} values masked"
            raise self._misfit(
                tensor.name, given, "each value; fill those, or leave their rows out"
            )
        if not _same_dtype(array.dtype, tensor.dtype):
            wanted = f"dtype {tensor.dtype} ({tensor.datatype})"
            raise self._misfit(tensor.name, _given(array), wanted)
        if self.max_batch_size == 0:
            if not tensor.accepts_shape(array.shape):
                raise self._misfit(tensor.name, _given(array), f"shape {_shape(tensor.shape)}")
            return 1
        if array.ndim == 0 or not tensor.accepts_shape(array.shape[1:]):
            wanted = f"shape {_shape(('rows', *tensor.shape))}"
            raise self._misfit(tensor.name, _given(array), wanted)
        n_rows = len(array)
        if not 1 <= n_rows <= self.max_batch_size:
            wanted = f"1 to {self.max_batch_size} rows (max_batch_size)"
            raise self._misfit(tensor.name, f"{n_rows} rows", wanted)
        if rows is not None and n_rows != rows:
            raise self._misfit(tensor.name, f"{n_rows} rows", f"{rows}, as in the other inputs")
        return n_rows

    def _misfit(self, tensor: str, given: str, wanted: str) -> InputError:
        return InputError(model=self.name, tensor=tensor, given=given, wanted=wanted)


def _same_dtype(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    if wanted == np.dtype(object):
        return given.kind in "OSU"
    return given == wanted


def _given(array: NDArray[Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"


def _described(tensor: TensorSpecification) -> str:
    return f"{tensor.datatype} with shape {_shape(tensor.shape)}"


def _shape(shape: Sequence[int | str]) -> str:
    return "(" + ", ".join("any" if length == -1 else str(length) for length in shape) + ")"


def _configured(tensor: Any) -> TensorSpecification:
    """Return an input or output as a configuration describes it."""
    # Raises ValueError for a number that is not an element type.
    datatype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    if any(length < -1 for length in tensor.dims):
        problem = f"{tensor.name!r} has the dims {list(tensor.dims)}"
        raise ValueError(problem)
    return TensorSpecification(
        name=tensor.name,
        datatype="BYTES" if datatype == "STRING" else datatype,
        shape=tuple(tensor.dims),
        optional=getattr(tensor, "optional", False),
    )


def _keeps_state(config: Any) -> bool:
    return bool(config.HasField("sequence_batching"))


def _max_sequences(config: Any) -> int:
    """Return the slots of all instances; the direct strategy has one for each row of a batch."""
    batching = config.sequence_batching
    slots = (
        batching.oldest.max_candidate_sequences
        if batching.HasField("oldest")
        else config.max_batch_size
    )
    return max(1, int(slots)) * max(1, sum(_instances(group) for group in config.instance_group))


def _instances(group: Any) -> int:
    per_gpu = len(group.gpus) if group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU else 0
    return int(max(1, group.count) * max(1, per_gpu))


def _version_number(version: str) -> int:
    return int(version) if version.isdigit() else -1

"""Stream HDF5 files through a model into HDF5 files."""

from typing import TYPE_CHECKING

from hermes._lazy import import_on_use

if TYPE_CHECKING:
    from hermes.aeriel._options import InferenceOptions
    from hermes.aeriel.files._agreement import check_against_model, check_agreement
    from hermes.aeriel.files._attributes import read_attributes
    from hermes.aeriel.files._chunks import check_division, chunk_of
    from hermes.aeriel.files._facts import DatasetFacts, InputFacts, Location
    from hermes.aeriel.files._finding import find_files, find_target_files, output_names
    from hermes.aeriel.files._fingerprint import fingerprint
    from hermes.aeriel.files._flat import create_rows, flat_paths
    from hermes.aeriel.files._hooks import NO_HOOKS, Hooks, Rows
    from hermes.aeriel.files._infer import (
        Request,
        check_unchanged,
        infer_file,
        pass_rows,
    )
    from hermes.aeriel.files._inputs import inspect
    from hermes.aeriel.files._job import (
        FileJob,
        infer_files,
        plan_files,
        summary,
    )
    from hermes.aeriel.files._links import as_data_errors, members
    from hermes.aeriel.files._opening import open_input, own_stamp, stamp_if_there
    from hermes.aeriel.files._output import (
        FINGERPRINT,
        OutputFile,
        fingerprint_of,
        output_name,
    )
    from hermes.aeriel.files._pairing import FoundInputs, find_inputs
    from hermes.aeriel.files._plan import InferencePlan, examine, plan
    from hermes.aeriel.files._predictions import PredictionWriter
    from hermes.aeriel.files._provenance import versions
    from hermes.aeriel.files._reading import parts_of
    from hermes.aeriel.files._reconnect import infer_with_reconnects
    from hermes.aeriel.files._rows import RowPlan
    from hermes.aeriel.files._series import read_windows
    from hermes.aeriel.files._servers import NamedServer, Server
    from hermes.aeriel.files._slides import n_slides, slide_file, slides_of
    from hermes.aeriel.files._sources import file_stamp, reaches_none
    from hermes.aeriel.files._times import LAYOUTS, SeriesAttributes
    from hermes.aeriel.files._varying import VaryingOutput
    from hermes.aeriel.files._window_options import WindowOptions
    from hermes.aeriel.files._writer import named
else:
    __getattr__, __dir__ = import_on_use(__name__)

__all__ = [
    "FINGERPRINT",
    "LAYOUTS",
    "NO_HOOKS",
    "DatasetFacts",
    "FileJob",
    "FoundInputs",
    "Hooks",
    "InferenceOptions",
    "InferencePlan",
    "InputFacts",
    "Location",
    "NamedServer",
    "OutputFile",
    "PredictionWriter",
    "Request",
    "RowPlan",
    "Rows",
    "SeriesAttributes",
    "Server",
    "VaryingOutput",
    "WindowOptions",
    "as_data_errors",
    "check_against_model",
    "check_agreement",
    "check_division",
    "check_unchanged",
    "chunk_of",
    "create_rows",
    "examine",
    "file_stamp",
    "find_files",
    "find_inputs",
    "find_target_files",
    "fingerprint",
    "fingerprint_of",
    "flat_paths",
    "infer_file",
    "infer_files",
    "infer_with_reconnects",
    "inspect",
    "members",
    "n_slides",
    "named",
    "open_input",
    "output_name",
    "output_names",
    "own_stamp",
    "parts_of",
    "pass_rows",
    "plan",
    "plan_files",
    "reaches_none",
    "read_attributes",
    "read_windows",
    "slide_file",
    "slides_of",
    "stamp_if_there",
    "summary",
    "versions",
]

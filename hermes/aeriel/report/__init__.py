"""The report of a validation, as JSON and as a page."""

from typing import TYPE_CHECKING

from hermes._lazy import import_on_use

if TYPE_CHECKING:
    from hermes.aeriel.report._monitor_plot import describe_server, summarise
    from hermes.aeriel.report._page import check_extra
    from hermes.aeriel.report._report import build_report, write_report_html, write_report_json
else:
    __getattr__, __dir__ = import_on_use(__name__)

__all__ = [
    "build_report",
    "check_extra",
    "describe_server",
    "summarise",
    "write_report_html",
    "write_report_json",
]

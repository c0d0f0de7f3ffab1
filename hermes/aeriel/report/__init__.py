"""The report of a validation, as JSON and as a page."""

from hermes.aeriel.report._monitor_plot import describe_server, summarise
from hermes.aeriel.report._page import check_extra
from hermes.aeriel.report._report import build_report, write_report_html, write_report_json

__all__ = [
    "build_report",
    "check_extra",
    "describe_server",
    "summarise",
    "write_report_html",
    "write_report_json",
]

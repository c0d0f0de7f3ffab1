"""The report of a validation, as JSON and as a page."""

from workflows.report._monitor_plot import summarise
from workflows.report._page import check_extra
from workflows.report._report import build_report, write_report_html, write_report_json

__all__ = ["build_report", "check_extra", "summarise", "write_report_html", "write_report_json"]

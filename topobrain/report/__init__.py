"""report: one self-contained HTML page of a folder of results. It opens with no server and no network."""

from topobrain.report.page import build_report

__all__ = ["build_report"]

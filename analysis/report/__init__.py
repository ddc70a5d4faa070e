"""One page that shows what runs are, and what has been found of them."""

from pyro_compvae.analysis.report.folders import ReportError, RunFolder
from pyro_compvae.analysis.report.page import write_report

__all__ = ["ReportError", "RunFolder", "write_report"]

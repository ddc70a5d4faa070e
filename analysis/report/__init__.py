"""Reports: one page that shows runs and the results of their analysis."""

from pyro_compvae.analysis.report.folders import ReportError, RunFolder
from pyro_compvae.analysis.report.page import write_report

__all__ = ["ReportError", "RunFolder", "write_report"]

"""report.html of a run: `page` joins page.html, page.css, page.js and what the other modules find out."""

from nepa_keras.visualization.report.page import write_report
from nepa_keras.visualization.report.patch_maps import patch_maps

__all__ = ["patch_maps", "write_report"]

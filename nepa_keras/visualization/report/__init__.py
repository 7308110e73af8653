"""Pages of runs: report.html of one, and the comparison of several.

`page` and `comparison` join a skeleton, page.css, page.js and what the other modules find out.
"""

from nepa_keras.visualization.report.comparison import write_comparison
from nepa_keras.visualization.report.page import write_report
from nepa_keras.visualization.report.patch_maps import patch_maps

__all__ = ["patch_maps", "write_comparison", "write_report"]

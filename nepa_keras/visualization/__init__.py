"""Pictures of a run (they need matplotlib), and its report."""

from nepa_keras.visualization.confusion import plot_confusion
from nepa_keras.visualization.contact_sheet import plot_contact_sheet
from nepa_keras.visualization.curves import plot_curves
from nepa_keras.visualization.events import log_pictures
from nepa_keras.visualization.label_counts import plot_label_counts
from nepa_keras.visualization.patch_maps import patch_maps
from nepa_keras.visualization.report import write_report
from nepa_keras.visualization.segmentation import class_colors, overlay, plot_segmentation
from nepa_keras.visualization.similarity import (
    plot_similarity,
    predicted_similarity,
    top_p_filter,
)

__all__ = [
    "class_colors",
    "log_pictures",
    "overlay",
    "patch_maps",
    "plot_confusion",
    "plot_contact_sheet",
    "plot_curves",
    "plot_label_counts",
    "plot_segmentation",
    "plot_similarity",
    "predicted_similarity",
    "top_p_filter",
    "write_report",
]

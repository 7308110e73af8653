"""Pictures of runs and models (they need matplotlib), and pages of runs.

One legend for shapes: B batch, T patches, N = 1 + T tokens, D width, H heads, K head width.
"""

from nepa_keras.visualization.attention import (
    attention_map,
    attention_maps,
    attention_probabilities,
    attention_rollout,
    plot_attention,
)
from nepa_keras.visualization.charts import (
    plot_confusion,
    plot_contact_sheet,
    plot_label_counts,
)
from nepa_keras.visualization.curves import plot_curves
from nepa_keras.visualization.embedding_rollout import (
    RolloutComparison,
    compare_rollout,
    plot_rollout,
)
from nepa_keras.visualization.events import log_pictures
from nepa_keras.visualization.overview import plot_overview
from nepa_keras.visualization.patch_bank import LinearDecoder, PatchBank, plot_nearest_patches
from nepa_keras.visualization.prediction_error import plot_prediction_error, prediction_error
from nepa_keras.visualization.principal_components import (
    patch_colors,
    patch_features,
    plot_patch_components,
    plot_projection,
    principal_components,
)
from nepa_keras.visualization.report import patch_maps, write_comparison, write_report
from nepa_keras.visualization.segmentation import (
    class_colors,
    overlay,
    plot_class_legend,
    plot_segmentation,
    write_masks,
)
from nepa_keras.visualization.similarity import (
    plot_similarity,
    predicted_similarity,
    top_p_filter,
)

__all__ = [
    "LinearDecoder",
    "PatchBank",
    "RolloutComparison",
    "attention_map",
    "attention_maps",
    "attention_probabilities",
    "attention_rollout",
    "class_colors",
    "compare_rollout",
    "log_pictures",
    "overlay",
    "patch_colors",
    "patch_features",
    "patch_maps",
    "plot_attention",
    "plot_class_legend",
    "plot_confusion",
    "plot_contact_sheet",
    "plot_curves",
    "plot_label_counts",
    "plot_nearest_patches",
    "plot_overview",
    "plot_patch_components",
    "plot_prediction_error",
    "plot_projection",
    "plot_rollout",
    "plot_segmentation",
    "plot_similarity",
    "predicted_similarity",
    "prediction_error",
    "principal_components",
    "top_p_filter",
    "write_comparison",
    "write_masks",
    "write_report",
]

"""Evaluation of pretrained models: features, k-NN, linear probe, few-label fine-tuning, reports."""

from nepa_keras.evaluation.blocks import (
    BlockChoice,
    block_name,
    choose_block,
    choose_features,
)
from nepa_keras.evaluation.classification import (
    ClassificationReport,
    calibration_error,
    classification_report,
    predict_batches,
)
from nepa_keras.evaluation.diagnostics import collapse_warnings, diagnostics, effective_rank
from nepa_keras.evaluation.embed import embed_source, model_fingerprint
from nepa_keras.evaluation.feature_files import Features, read_features
from nepa_keras.evaluation.feature_sets import FeatureSets
from nepa_keras.evaluation.features import AFTER_NORM, FeatureExtractor, extract_features
from nepa_keras.evaluation.few_label import (
    FewLabelTrial,
    class_balanced_subset,
    few_label_accuracy,
    few_label_comparison,
)
from nepa_keras.evaluation.knn import knn_accuracy
from nepa_keras.evaluation.linear_probe import linear_probe_accuracy
from nepa_keras.evaluation.monitor import FeatureMonitor
from nepa_keras.evaluation.multi_label import (
    MultiLabelReport,
    average_precision,
    multi_label_report,
)
from nepa_keras.evaluation.nearest import nearest_features
from nepa_keras.evaluation.predictions import write_predictions
from nepa_keras.evaluation.pretraining_loss import pretraining_loss
from nepa_keras.evaluation.report import frozen_accuracies, transfer_rows, transfer_table
from nepa_keras.evaluation.segment_images import ImageSegmenter, segmentation_scores
from nepa_keras.evaluation.segmentation import SegmentationReport, SegmentationScores
from nepa_keras.evaluation.trained_probes import AttentivePool, sgd_probe_accuracy
from nepa_keras.performance import (  # their former home
    DEVICES,
    ModelFlopsUtilization,
    forward_flops,
    known_device,
    measured_peak,
    predicted_step,
    roofline_table,
    training_flops,
)
from nepa_keras.renamed import former_names

__all__ = [
    "AFTER_NORM",
    "DEVICES",
    "AttentivePool",
    "BlockChoice",
    "ClassificationReport",
    "FeatureExtractor",
    "FeatureMonitor",
    "FeatureSets",
    "Features",
    "FewLabelTrial",
    "ImageSegmenter",
    "ModelFlopsUtilization",
    "MultiLabelReport",
    "SegmentationReport",
    "SegmentationScores",
    "average_precision",
    "block_name",
    "calibration_error",
    "choose_block",
    "choose_features",
    "class_balanced_subset",
    "classification_report",
    "collapse_warnings",
    "diagnostics",
    "effective_rank",
    "embed_source",
    "extract_features",
    "few_label_accuracy",
    "few_label_comparison",
    "forward_flops",
    "frozen_accuracies",
    "knn_accuracy",
    "known_device",
    "linear_probe_accuracy",
    "measured_peak",
    "model_fingerprint",
    "multi_label_report",
    "nearest_features",
    "predict_batches",
    "predicted_step",
    "pretraining_loss",
    "read_features",
    "roofline_table",
    "segmentation_scores",
    "sgd_probe_accuracy",
    "training_flops",
    "transfer_rows",
    "transfer_table",
    "write_predictions",
]

__getattr__ = former_names(
    __name__,
    {
        "warnings_of": "collapse_warnings",
        "worth_rows": "transfer_rows",
        "worth_table": "transfer_table",
    },
)

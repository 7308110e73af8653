"""A folder of weights is replaced as a whole, whatever an interrupted run left beside it."""

import numpy as np

import nepa_keras
from nepa_keras.interop import replace_huggingface
from tests.helpers import tiny


def test_an_export_replaces_the_older_weights(tmp_path):
    model, folder = nepa_keras.NepaPretrainer(tiny.backbone()), tmp_path / "best"
    for leftover in ("unfinished-best", "old-best"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "model.safetensors").write_bytes(b"half")
    for value in (1.0, 2.0):
        model.backbone.norm.beta.assign(np.full(model.backbone.hidden_dim, value))
        replace_huggingface(model, folder)
        again = nepa_keras.NepaPretrainer.from_preset(folder)
        assert (np.array(again.backbone.norm.beta) == value).all()
        assert [path.name for path in tmp_path.iterdir()] == ["best"]

"""The learning rate of each layer, as curves show it."""

import numpy as np

from nepa_keras import training
from nepa_keras.visualization import curves
from tests.helpers import tiny


def test_each_layer_has_its_rate(tmp_path):
    """One line for each layer group, the embedding's the smallest, as the schedule gives them."""
    model = tiny.pretrainer()
    schedule = training.LayerwiseWarmupCosine(1e-3, 20, num_layers=2, layer_decay=0.5)
    optimizer = training.adamw(schedule)
    optimizer.build(model.trainable_variables)
    log = tmp_path / "log.csv"
    log.write_text("step,learning_rate,loss\n10,1e-3,1\n20,1e-4,1\n")
    _, _, panels = curves.read_panels(log, optimizer)
    (panel,) = [panel for panel in panels if panel.title == "Learning rate of each layer"]
    group = schedule.layer_group("block_0/attention")
    assert panel.lines["block 0"][0] == schedule.rate_at(9, group)
    rates = [panel.lines[name][0] for name in ("embedding", "block 0", "block 1")]
    assert rates == sorted(rates) and len(set(rates)) == 3
    assert curves.layer_rates(None, np.array([1])) == {}

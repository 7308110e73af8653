"""Flag files in experiments/recipes: each is read by its script, and has the numbers of its source."""

import pytest
from recipe_check import RECIPES

from tests.helpers import scripts

ADAMW = {"weight_decay": 0.05, "ema_decay": 0.9999}
FREEZE = ["patch_embedding/kernel", "patch_embedding/bias"]
AUGMENTATION = {"rand_augment": 2, "magnitude": 9, "magnitude_std": 0.5, "label_smoothing": 0.1}
AUGMENTATION |= {"mixup": 0.8, "cutmix": 1.0, "freeze": FREEZE}
# The paper, arXiv 2512.16922 v2, and the authors' released scripts. Of a pair the first is for base.
TABLE_4 = ADAMW | {
    "base_learning_rate": 3e-4,
    "beta_2": 0.95,
    "batch_size": 4096,
    "epochs": (1600, 800),
    "warmup_epochs": 40,
    "warmup_ratio": None,
    "flip": False,
    "gated_mlp": True,
    "qk_norm_scale": False,
    "layer_scale": 1e-5,
}
SCRIPTS_PRETRAIN = TABLE_4 | {
    "epochs": 1600,
    "warmup_epochs": None,
    "warmup_ratio": 0.025,
    "flip": True,
    "gated_mlp": False,
    "qk_norm_scale": (False, True),
}
TABLE_5 = (
    ADAMW
    | AUGMENTATION
    | {
        "base_learning_rate": 1e-3,
        "head_learning_rate": 4e-3,
        "beta_2": 0.999,
        "batch_size": 1024,
        "epochs": (100, 50),
        "warmup_epochs": 5,
        "warmup_ratio": None,
        "own_warmup": False,
        "layer_decay": (0.35, 0.60),
        "final_layer_decay": 1.0,
        "layer_decay_course": "linear",
        "drop_path": (0.1, 0.2),
        "erasing": 0.0,
        "causal": True,
        "pooling": "last",
    }
)
SCRIPTS_FINETUNE = TABLE_5 | {
    "base_learning_rate": (1.5e-3, 1e-3),
    "head_learning_rate": 1e-3,
    "epochs": 100,
    "warmup_epochs": None,
    "warmup_ratio": (0.2, 0.3),
    "own_warmup": True,
    "layer_decay": (0.65, 0.75),
    "final_layer_decay": None,
    "layer_decay_course": "cosine",
    "erasing": 0.25,
    "causal": False,
    "pooling": "mean",
}
# The figures that the head of a file promises, base and large.
SOURCES = {
    "paper_pretrain": (TABLE_4, ("82.5", "84.1"), ("83.8", "85.3")),
    "paper_finetune": (TABLE_5, ("82.5", "84.1"), ("83.8", "85.3")),
    "released_pretrain": (SCRIPTS_PRETRAIN, ("83.75", "85.40")),
    "released_finetune": (SCRIPTS_FINETUNE, ("83.75", "85.40")),
}
FILES = sorted(RECIPES.glob("*.flags"))


@pytest.mark.once
@pytest.mark.parametrize("recipe", FILES, ids=[recipe.stem for recipe in FILES])
def test_a_recipe_is_read_by_its_script_and_has_the_numbers_of_its_source(recipe):
    """The head of a recipe has the command that runs it."""
    text = recipe.read_text()
    (script,) = (name for name in ("pretrain", "finetune", "segment") if name in recipe.stem)
    values = scripts.flag_values(f"{script}.py", f"--flagfile={recipe}")
    head = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    assert f"--flagfile=experiments/recipes/{recipe.name}" in head
    assert f"python experiments/{script}.py" in head
    assert all(f"#   {word} " in text for word in ("command", "hardware", "expected"))
    source, _, size = recipe.stem.rpartition("_")
    if source not in SOURCES:
        return
    table, *figures = SOURCES[source]
    large = size == "large"
    expected = {k: v[large] if isinstance(v, tuple) else v for k, v in table.items()}
    assert {name: values[name] for name in expected} == expected
    assert all(pair[large] in head for pair in figures)
    assert all(f"#   {word} " in text for word in ("source", "time"))


@pytest.mark.once
def test_base_and_large_have_both_sources():
    assert {recipe.stem for recipe in FILES} >= {
        f"{source}_{size}" for source in SOURCES for size in ("base", "large")
    }

"""Parts of `experiments/study.py`: the paper's ablations, tuning for either start, results and tables."""

"""Parts of `experiments/study.py`: ablations, tuning for either start, results and tables."""

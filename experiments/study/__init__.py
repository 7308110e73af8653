"""Parts of `experiments/study.py`: ablations, tuning, training dynamics, results, tables and figures."""

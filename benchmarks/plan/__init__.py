"""Parts of `benchmarks/plan.py`: layouts of a training on a machine, the memory of a step, their tables."""

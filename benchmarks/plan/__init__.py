"""Parts of `benchmarks/plan.py`: layouts of a training on a machine, memory of a step, tables."""

"""Parts of `benchmark.py --suite=tpu`: a step compiled for TPUs that are not here, and what its program says."""

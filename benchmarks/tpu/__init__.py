"""Parts of `benchmark.py --suite=tpu`: steps compiled for TPUs that are not here."""

"""Parts of `benchmark.py --suite=tpu`: training steps compiled for TPUs without a TPU."""

"""Parts of `experiments/photographs.py`: packages with photographs, their licences, their crops."""

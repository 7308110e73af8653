"""Protocol of optimizers that guard against non-finite steps."""

from typing import Protocol, runtime_checkable

LARGEST_RATE = 1e3  # Adam's updates are about as large as the rate; float32 overflows far later


def is_rate(rate):
    """Check that a learning rate (float or tensor) is a number from 0 to 1000; NaN is not."""
    return (rate >= 0.0) & (rate <= LARGEST_RATE)


@runtime_checkable
class GuardedOptimizer(Protocol):
    """A Keras optimizer that is given the loss and turns a non-finite step into the identity.

    `training.AdamW` is one. With other optimizers the training step compares and restores the state itself,
    which costs a copy of weights and optimizer variables.
    """

    variables: list
    trainable_variables: list

    def apply_guarded(self, gradients, variables=None, loss=0.0):
        """Apply one step; return (gradient norm before clipping, True if norm and loss are finite)."""

    def scale_loss(self, loss):
        """Return the scaled loss whose gradients `apply_guarded` takes."""

    def enable_loss_scaling(self):
        """Turn on loss scaling, for float16."""

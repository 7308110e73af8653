"""What an optimizer has that guards itself against non-finite steps."""

from typing import Protocol, runtime_checkable

LARGEST_RATE = 1e3  # an update of Adam is about as large as the rate; float32 overflows long after


def is_rate(rate):
    """Whether a learning rate, a float or a tensor, is a number from 0 to 1000; NaN is none."""
    return (rate >= 0.0) & (rate <= LARGEST_RATE)


@runtime_checkable
class GuardedOptimizer(Protocol):
    """A Keras optimizer that knows the loss and turns a non-finite step into the identity.

    `training.AdamW` is one. With any other optimizer the train step compares and restores by itself, which
    costs a copy of weights and slots.
    """

    variables: list
    trainable_variables: list

    def apply_guarded(self, gradients, variables=None, loss=0.0):
        """One step; returns (global gradient norm before clipping, whether norm and loss were finite)."""

    def scale_loss(self, loss):
        """The loss whose gradients `apply_guarded` takes."""

    def enable_loss_scaling(self):
        """Begin to scale the loss, for float16."""

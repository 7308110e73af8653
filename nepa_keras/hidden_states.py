"""What lies inside an inference pass of a backbone: what leaves each block, and attention probabilities.

B batch, T patches, D width, L layers, H heads.
"""

import keras
from keras import ops

from nepa_keras.types import Tensor


class HiddenStates(keras.Model):
    """`block_outputs` and `taps`, of a model with `embed`, `add_positions`, `_states` and `norm`."""

    def block_outputs(
        self, images: Tensor, causal: bool | None = None, training: bool = False
    ) -> list[Tensor]:
        """What leaves each block, and last what the final norm makes of it: L + 1 of (B, 1 + T, D)."""
        entering = self.add_positions(self.embed(images), images)
        outputs = list(self._states(entering, images, causal, training))
        return [*outputs, self.norm(outputs[-1])]

    def taps(self, images: Tensor, causal: bool | None = None) -> dict:
        """Everything inside an inference pass, eagerly.

        Returns:
            The outputs of `call`, "hidden_states": what enters block 0 and what leaves each block, L + 1 of
            (B, 1 + T, D), and "attentions": softmax probabilities, L of (B, H, 1 + T, 1 + T).
        """
        embeddings = self.embed(images := ops.convert_to_tensor(images))
        entering = self.add_positions(embeddings, images)
        found = self._states(entering, images, causal, return_probabilities=True)
        states, attentions = zip(*found, strict=True)
        return {
            "embeddings": embeddings,
            "hidden_states": [entering, *states],
            "attentions": list(attentions),
            "sequence_output": self.norm(states[-1]),
        }

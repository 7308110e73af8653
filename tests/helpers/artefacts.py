"""Exported models, in the format that each backend can write."""

import keras
import numpy as np

FORMAT = "onnx" if keras.backend.backend() == "torch" else "tf_saved_model"


def run_exported(path, images) -> list[np.ndarray]:
    """The outputs that an artefact of `FORMAT` makes of images."""
    if FORMAT == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path))
        return session.run(None, {session.get_inputs()[0].name: images})
    import tensorflow as tf

    artefact = tf.saved_model.load(path)  # holds the variables of its function
    return [np.asarray(x) for x in keras.tree.flatten(artefact.serve(images))]

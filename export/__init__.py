"""From a checkpoint to a bundle: ONNX graphs, the proof that they compute what torch does, and int8."""

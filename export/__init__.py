"""From a checkpoint to a bundle: ONNX graphs, quantization, and the proof that both compute what torch computes."""

"""What a model file may contain: a structural gate for ONNX that runs before any inference library parses a byte."""

"""From a torch net to an ONNX file with metadata."""

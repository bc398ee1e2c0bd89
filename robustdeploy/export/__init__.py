"""From a torch net to an ONNX file with metadata, and to a bundle."""

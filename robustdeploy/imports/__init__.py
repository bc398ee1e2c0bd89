"""Nets that others trained, turned into stored nets: ONNX files and checkpoints of PyTorch."""

"""Precisions: one pass from ONNX to ONNX per file."""

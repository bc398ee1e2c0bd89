"""Toolchains that run an ONNX file, one file each."""

"""Gradient attacks in torch, one file each; training and evaluation both use them."""

"""Whole denoising steps: one GPU, several GPUs, the panel."""

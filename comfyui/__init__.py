"""The ComfyUI host: LIVEditor on core's Wan, ISA as an attention override, the VAE a few frames at a time."""

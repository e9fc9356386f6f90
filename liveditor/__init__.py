"""The LIVEditor model: its checkpoint, its network on ComfyUI's Wan, and how ComfyUI loads it."""

"""ISA on ComfyUI models: what a model tells about its in-context attention, and the override that replaces it."""

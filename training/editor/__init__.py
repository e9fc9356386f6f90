"""Trains the editor's network on diffusers' engines, from encoded pairs to a checkpoint: `liveditor train`.

`recipe` says what, `pairs` and `batches` bring data, `start` makes the network, `objective` the loss, `parallel` spreads it over
GPUs, `trainer` steps it, `loop` runs the steps, `checkpoints` and `export` write, `plan` counts before anything loads.
"""

"""The training of LIVEditor-tiny: VAE, decoder, text encoder and network."""

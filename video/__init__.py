"""Video in and out: sizes and crops, reading a clip, streaming the decoder, writing the mp4."""

"""LIVEditor-tiny, the small model that comes with this pack (weights/README.md)."""

from pathlib import Path

NAME = "LIVEditor-tiny (included)"
"""Stands for the file name of each of its three parts."""

FOLDER = Path(__file__).resolve().parent.parent / "weights"

FILES = {
    "diffusion_model": "liveditor_tiny.safetensors",
    "text_encoder": "umt5_tiny.safetensors",
    "vae": "wan_tiny_vae.safetensors",
}


def path_of(part: str) -> str:
    return str(FOLDER / FILES[part])


def check_parts(chosen: dict[str, str | None]) -> None:
    """Raises ValueError if only some of the three parts are the included ones, because latents and texts would not match."""
    included = [part for part in FILES if chosen[part] == NAME]
    if included and len(included) < len(FILES):
        others = " and ".join(f"{part} '{chosen[part]}'" for part in FILES if part not in included)
        raise ValueError(
            f"LIVEditor-tiny works with its own parts only, not with {others}: pick '{NAME}' for all three inputs."
        )

"""LIVEditor-tiny, the small model that comes with this pack (weights/README.md)."""

from pathlib import Path

NAME = "LIVEditor-tiny (included)"
"""What stands in the place of a file name for each of its three parts."""

FOLDER = Path(__file__).resolve().parent.parent / "weights"

FILES = {
    "diffusion_model": "liveditor_tiny.safetensors",
    "text_encoder": "umt5_tiny.safetensors",
    "vae": "wan_tiny_vae.safetensors",
}


def path_of(part: str) -> str:
    return str(FOLDER / FILES[part])


def check_parts(chosen: dict[str, str | None]) -> None:
    """Raises ValueError where some of the three parts are the included ones and some are not: their latents and texts differ."""
    included = [part for part in FILES if chosen[part] == NAME]
    if included and len(included) < len(FILES):
        others = " and ".join(f"{part} '{chosen[part]}'" for part in FILES if part not in included)
        raise ValueError(
            f"LIVEditor-tiny works with its own parts only, not with {others}: pick '{NAME}' for all three inputs."
        )

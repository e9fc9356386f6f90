"""The nodes' schemas as the code declares them."""

import asyncio


def all_schemas() -> list:
    import liveditor_isa

    async def collect():
        extension = await liveditor_isa.comfy_entrypoint()
        return [node.GET_SCHEMA() for node in await extension.get_node_list()]

    return asyncio.run(collect())


def all_inputs(inputs):
    """Every input, those of an input's options included."""
    for entry in inputs:
        yield entry
        for option in getattr(entry, "options", None) or []:
            yield from all_inputs(getattr(option, "inputs", []))

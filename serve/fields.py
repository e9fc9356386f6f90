"""Names in a request, of a form's fields and of an address's parameters: one that means nothing here is refused, with the nearest that does."""

# FastAPI reads annotations: they are no texts here.
from difflib import get_close_matches

from fastapi import HTTPException, Request

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")

IGNORED = ("user", "safety_identifier", "seconds")
"""Fields of OpenAI's clients without a meaning here: who their user is, and the length of a new video; an edit is as long as its video."""

FILES = ("video", "mask", "reference", "reference[]", "input_reference")

SEVERAL = ("reference", "reference[]", "input_reference", "box", "box[]")
"""Fields that may come several times. OpenAI's clients put the brackets behind a list's name."""

VERSIONED = "/v1/"
"""Addresses whose parameters are looked at. Whoever asks for another, such as /health, may add one against caches."""


async def check_form(request: Request) -> None:
    """Raises HTTPException for a body that is no form, and for a field of it that is unknown, a text for a file, or there too often."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in FORMS:
        raise HTTPException(
            400, f"The request is {kind or 'of no type':.60}: send a form, multipart/form-data, with the video's file."
        )
    form, known = await request.form(), _fields(request)
    for name in form:
        if name not in known and name not in IGNORED:
            raise HTTPException(400, _unknown("field", name, known))
        values = form.getlist(name)
        if len(values) > 1 and name not in SEVERAL:
            raise HTTPException(400, f"{name} comes {len(values)} times: send it once.")
        if name in FILES and isinstance(text := values[0], str) and text:
            raise HTTPException(400, f"{name} is a file, as of curl -F {name}=@NAME; got the text {text!r:.60}.")


async def check_parameters(request: Request) -> None:
    """Raises HTTPException for a parameter of the address that its route does not have."""
    if not request.url.path.startswith(VERSIONED):
        return
    if (operation := _operation(request)) is None:  # an address that there is not
        return
    known = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
    for name in request.query_params:
        if name not in known and name in _fields(request):
            raise HTTPException(400, f"{name} is a field of the form, and no parameter of the address: send it in the form.")
        if name not in known:
            raise HTTPException(400, _unknown("parameter", name, known))


def _operation(request: Request) -> dict | None:
    """What /openapi.json says of the request's route."""
    route = request.scope.get("route")
    methods = request.app.openapi()["paths"].get(getattr(route, "path", None), {})
    return methods.get(request.method.lower())


def _fields(request: Request) -> list[str]:
    """Of the form that the request's route takes; none where it takes none."""
    content = ((_operation(request) or {}).get("requestBody") or {}).get("content", {})
    schemas = request.app.openapi().get("components", {}).get("schemas", {})
    references = [each["schema"]["$ref"].rpartition("/")[2] for each in content.values() if "$ref" in each["schema"]]
    return [name for reference in references for name in schemas[reference]["properties"]]


def _unknown(what: str, name: str, known: list[str]) -> str:
    if near := get_close_matches(name.lower(), known, 1):
        cure = f"{near[0]} is the nearest that there is, /openapi.json lists all"
    else:
        cure = f"there are {', '.join(known)}" if known else "this address takes none"
    return f"There is no {what} {name!r:.60}: {cure}."

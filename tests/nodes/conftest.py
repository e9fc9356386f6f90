"""The example workflow that most tests of the nodes run."""

import copy
import json

import pytest
from examples import EXAMPLES
from workflow_api import Workflow


@pytest.fixture(scope="session")
def saved() -> dict:
    return json.loads((EXAMPLES / "2 LIVEditor-14B.json").read_text(encoding="utf-8"))


@pytest.fixture
def workflow(saved, info) -> Workflow:
    return Workflow(copy.deepcopy(saved), info)

"""The suite of requests, with the httpbin that TOKENBROKER_HTTPBIN names; tests that do not use it are left out.

Needs `-p no:httpbin`, or else the fixture of pytest-httpbin takes the place of the one here. Its secure one stays.
"""

import os
from types import SimpleNamespace

import pytest
from pytest_httpbin.plugin import httpbin_ca_bundle, httpbin_secure  # noqa: F401


@pytest.fixture(scope="session")
def httpbin():
    return SimpleNamespace(url=os.environ["TOKENBROKER_HTTPBIN"])


def pytest_collection_modifyitems(config, items):
    uses = [item for item in items if "httpbin" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in uses])
    items[:] = uses

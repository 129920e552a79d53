"""Fixtures that all tests share: servers, and clean places in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import servers

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def moto() -> Iterator[servers.StoreServer]:
    with servers.moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def seaweed() -> Iterator[servers.StoreServer]:
    with servers.seaweed_server() as server:
        yield server


@pytest.fixture(scope="session")
def gcs() -> Iterator[servers.StoreServer]:
    with servers.gcs_server() as server:
        yield server


@pytest.fixture(scope="session")
def running_shaped() -> Iterator[servers.ShapedServer]:
    with servers.shaped_server() as server:
        yield server


@pytest.fixture
def shaped(running_shaped: servers.ShapedServer) -> servers.ShapedServer:
    """The shaped server, fast and without faults until a test asks for them."""
    running_shaped.reset()
    return running_shaped


@pytest.fixture
def moto_bucket(moto: servers.StoreServer) -> Iterator[servers.Bucket]:
    with moto.bucket() as bucket:
        yield bucket


@pytest.fixture
def seaweed_bucket(seaweed: servers.StoreServer) -> Iterator[servers.Bucket]:
    with seaweed.bucket() as bucket:
        yield bucket


@pytest.fixture
def gcs_bucket(gcs: servers.StoreServer) -> Iterator[servers.Bucket]:
    with gcs.bucket() as bucket:
        yield bucket


@pytest.fixture(params=["moto", "seaweed"])
def s3_bucket(request: pytest.FixtureRequest) -> servers.Bucket:
    """A clean bucket on each S3: each is wrong where the other is right."""
    bucket: servers.Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return bucket


@pytest.fixture(params=["moto", "seaweed", "gcs"])
def bucket(request: pytest.FixtureRequest) -> servers.Bucket:
    """A clean bucket on each object store."""
    place: servers.Bucket = request.getfixturevalue(f"{request.param}_bucket")
    return place

"""Where keys and referred values are kept: AWS against moto's server; HashiCorp Vault and Infisical against doubles.

The doubles answer as the documentation of those servers says, with their checks of tokens, versions (`cas`), leases and
paths; no server of either can be had here.
"""

import asyncio
import os

import pytest
from moto.server import ThreadedMotoServer

from sfp_server.credentials.ring import Ring
from sfp_server.credentials.sources import aws, hashicorp, infisical
from sfp_server.credentials.sources.base import Fetched, SourceError
from sfp_server.credentials.sources.local import EnvironmentSource, FileSource
from sfp_server.outgoing import Outgoing
from source_doubles import DOUBLES, InfisicalDouble, VaultDouble, served

RING_PATH = "sfp-server/master-keys"


@pytest.fixture
async def outgoing():
    made = Outgoing(allow=["127.0.0.1"])
    yield made
    await made.close()


@pytest.fixture
def moto(monkeypatch, tmp_path):
    """A whole AWS Secrets Manager, as moto plays it."""
    for name, value in (("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def vault_at(url, outgoing, **access):
    return hashicorp.HashiCorp(outgoing, hashicorp.Access(url=url, **access), ring_path=RING_PATH)


def infisical_at(url, outgoing, client_secret="client-secret"):
    access = infisical.Access(
        url=url, project="project", environment="prod", client_id="client-id", client_secret=client_secret
    )
    return infisical.Infisical(outgoing, access, ring_path=RING_PATH)


def aws_at(url):
    return aws.SecretsManager(aws.Access(region="eu-central-1", endpoint=url), ring_path=RING_PATH)


@pytest.fixture(params=["file", "vault with a token", "vault as an AppRole", "infisical", "aws"])
async def source(request, tmp_path, outgoing):
    """Each source that can be written."""
    match request.param:
        case "file":
            yield FileSource(tmp_path / "keys")
        case "aws":
            yield aws_at(request.getfixturevalue("moto"))
        case "infisical":
            async with served(InfisicalDouble()) as url:
                yield infisical_at(url, outgoing)
        case how:
            async with served(VaultDouble()) as url:
                access = {"token": "root"} if "token" in how else {"role_id": "role", "secret_id": "role-secret"}
                yield vault_at(url, outgoing, **access)


async def test_a_ring_is_kept_and_replaced(source):
    assert await source.read() is None
    ring = Ring.fresh()
    await source.write(ring.text())
    assert Ring.parse(await source.read()) == ring
    await source.write(ring.with_next().without(1).text())
    assert set(Ring.parse(await source.read()).keys) == {2}


async def test_values_are_fetched_and_what_is_not_there_says_so(outgoing, moto):
    async with served(VaultDouble()) as vault_url, served(InfisicalDouble()) as infisical_url:
        vault = vault_at(vault_url, outgoing, token="root")
        await vault._ask("POST", "secret/data/sfp/acme/npm", {"data": {"token": "npm-value", "more": 1}})
        assert await vault.fetch("sfp/acme/npm") == Fetched(values={"token": "npm-value", "more": "1"})
        theirs = infisical_at(infisical_url, outgoing)
        await theirs._secret("POST", "/acme/NPM", "npm-value")
        assert await theirs.fetch("/acme/NPM") == Fetched(values={"value": "npm-value"})
        amazon = aws_at(moto)
        await amazon._call(
            lambda client: client.create_secret(Name="sfp/acme/npm", SecretString='{"token": "npm-value"}')
        )
        await amazon._call(lambda client: client.create_secret(Name="sfp/acme/plain", SecretString="text"))
        assert await amazon.fetch("sfp/acme/npm") == Fetched(values={"token": "npm-value"})
        assert await amazon.fetch("sfp/acme/plain") == Fetched(values={"value": "text"})
        for one in (vault, theirs, amazon):
            with pytest.raises(SourceError, match="has nothing at this"):
                await one.fetch("sfp/acme/nothing")
            with pytest.raises(SourceError, match="own keys cannot be referred to"):
                await one.fetch(RING_PATH)


async def test_short_lived_credentials_have_a_lease_that_is_given_back(outgoing):
    double = VaultDouble()
    async with served(double) as url:
        vault = vault_at(url, outgoing, role_id="role", secret_id="role-secret")
        fetched = await vault.fetch("/database/creds/readonly")
        assert fetched.lease_id in double.leases
        assert fetched.values["password"]
        await vault.revoke(fetched.lease_id)
        assert double.leases == set()
        await vault.revoke(fetched.lease_id)  # over already


async def test_a_token_that_has_run_out_is_fetched_anew(outgoing):
    vault_double, infisical_double = VaultDouble(), InfisicalDouble()
    async with served(vault_double) as vault_url, served(infisical_double) as infisical_url:
        sources = [
            (vault_double, vault_at(vault_url, outgoing, role_id="role", secret_id="role-secret")),
            (infisical_double, infisical_at(infisical_url, outgoing)),
        ]
        for double, one in sources:
            await one.write("text")
            double.tokens.clear()
            assert await one.read() == "text"


async def test_a_ring_that_somebody_else_changed_is_not_overwritten(outgoing):
    double = VaultDouble(race=True)
    async with served(double) as url:
        vault = vault_at(url, outgoing, token="root")
        with pytest.raises(SourceError, match="answered 400"):
            await vault.write("ours")


@pytest.mark.parametrize("wrong", ["refused", "away", "nonsense"])
@pytest.mark.parametrize("name", DOUBLES)
async def test_a_source_that_refuses_or_is_away_says_so_and_nothing_secret(outgoing, name, wrong):
    double = DOUBLES[name](broken=wrong == "nonsense")
    async with served(double) as served_at:
        url = "http://127.0.0.1:1" if wrong == "away" else served_at
        good = wrong != "refused"
        one = (
            vault_at(url, outgoing, token="root" if good else "wrong-token")
            if name == "vault"
            else infisical_at(url, outgoing, "client-secret" if good else "wrong-secret")
        )
        with pytest.raises(SourceError) as failure:
            await one.read()
    assert not any(secret in str(failure.value) for secret in ("root", "wrong-", "client-secret"))


async def test_aws_that_refuses_or_is_away_says_so(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    with pytest.raises(SourceError, match="cannot be reached: EndpointConnectionError"):
        await aws_at("http://127.0.0.1:1").read()


async def test_aws_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "botocore.exceptions", None)
    with pytest.raises(SourceError, match=r"pip install 'sfp-server\[aws\]'"):
        await aws_at("http://127.0.0.1:1").read()


async def test_the_environment_is_read_once_and_emptied(tmp_path):
    environ = {"SFP_VAULT_KEYS": "ring"}
    one = EnvironmentSource(environ)
    assert [await one.read(), await one.read(), environ] == ["ring", "ring", {}]
    (tmp_path / "sfp-vault-keys").write_text("of systemd")
    assert await EnvironmentSource({"CREDENTIALS_DIRECTORY": str(tmp_path)}).read() == "of systemd"
    for refused in (EnvironmentSource({}).read(), one.write("x")):
        with pytest.raises(SourceError, match="new-vault"):
            await refused


async def test_a_ring_in_a_file_is_private_and_replaced_at_once(tmp_path):
    one = FileSource(tmp_path / "keys")
    await asyncio.gather(*(one.write("x" * 1000) for _ in range(4)))
    assert os.listdir(tmp_path) == ["keys"]
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600

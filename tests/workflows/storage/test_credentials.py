"""Which names and values are taken for secrets, and which are not."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.job_file.errors import JobFileError
from jobs.job_file.read import check_fields
from workflows.storage.credentials import is_secret_name, secret_in, secret_in_address

SECRET = "hunter2-planted"
SMALLEST = {"prompts": "prompts.parquet", "output": "renders", "model": {"checkpoint": "toy"}}

SECRET_NAMES = [
    *("key", "Key", "KEY", "secret", "client_secret", "password", "Password", "passwd", "pwd", "passphrase"),
    *("api_key", "apiKey", "apikey", "APIKEY", "API-Key", "account-key", "account_key", "AccountKey", "shared_key"),
    *("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "token", "authToken", "sasToken", "SAS_TOKEN"),
    *("Authorization", "X-Authorization", "auth", "http_auth", "Cookie", "connection_string", "connectionString"),
    *("credential", "credentials", "SSECustomerKey", "private_key", "bearer", "X-Amz-Signature", "sig"),
    *("pass", "pw", "PAT", "otp", "auth_header", "authkey", "\uff4b\uff45\uff59"),
]
PLAIN_NAMES = [
    *("endpoint_url", "region_name", "anon", "signature_version", "SSEKMSKeyId", "ServerSideEncryption", "profile"),
    *("requester_pays", "use_ssl", "verify", "connect_timeout", "addressing_style", "account_name", "auth_type"),
    *("passive", "path", "compass", "username", "session_kwargs", "bypass_cache", "pattern"),
    *("project", "cache_timeout", "monkey", "tokenizer", "keyspace", "versionId", "default_block_size"),
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_name_of_a_secret_is_known_in_any_spelling(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_other_names_are_not_taken_for_secrets(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "address",
    [
        f"https://me:{SECRET}@host/x",
        f"s3://{SECRET}@bucket/x",
        f"https:/me:{SECRET}@host",
        f"zip://x.parquet::https://u:{SECRET}@h/x.zip",
        f"https://h/x?apikey={SECRET}",
        f"https://h/x?a=1&X-Amz-Security-Token={SECRET}",
        f"https://h/x?sv=2020&sig={SECRET}",
        f"https://h/x?api%5Fkey={SECRET}",
        f"https://h/x#access_token={SECRET}",
        f"https://h/x;jsessionid={SECRET}",
        f"https://h/api?code={SECRET}",
        f"https://me%3A{SECRET}%40host/x?x=https%3A%2F%2Fu:p%40h",
    ],
)
def test_an_address_with_a_secret_is_known_and_not_shown(address: str) -> None:
    assert SECRET not in str(secret_in_address(address))
    for key in ("prompts", "output", "model"):
        fields = {**SMALLEST, key: {"checkpoint": address} if key == "model" else address}
        with pytest.raises(JobFileError, match="credentials come from the environment") as refused:
            check_fields(fields)
        assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/a@b/c.parquet",
        "prompts@home.parquet",
        "/data/x@y/",
        "https://h/x?versionId=3",
        "s3://b/key=1/x.parquet",
    ],
)
def test_other_addresses_are_not_taken_for_secrets(address: str) -> None:
    assert secret_in_address(address) is None
    assert check_fields({**SMALLEST, "prompts": address}).prompts == address


@pytest.mark.parametrize(
    "storage",
    [
        *({name: SECRET} for name in SECRET_NAMES),
        {"a": [{"secret": SECRET}]},
        {"a": [[{"b": {"token": SECRET}}]]},
        {"headers": {"Authorization": f"Bearer {SECRET}"}},
        {"headers": {"X-Custom": f"Bearer {SECRET}"}},
        {"headers": [f"Authorization: Token {SECRET}"]},
        {"headers": [["X-Api-Key", SECRET]]},
        {"options": f"AccountName=me;AccountKey={SECRET}"},
        {"headers": [["X-Custom", f"basic {SECRET}"]]},
        {"client_kwargs": {"auth": ["user", SECRET]}},
        {"l": [f"https://u:{SECRET}@h"]},
        {"endpoint_url": f"http://me:{SECRET}@host"},
        {"client_kwargs": {"endpoint_url": f"http://{SECRET}@host/path"}},
        {"pem": f"-----BEGIN PRIVATE KEY-----{SECRET}"},
        {"id": "AKIAABCDEFGHIJKLMNOP", "x": SECRET},
        {"project": f'{{"private_key": "{SECRET}"}}'},
        {"x": f"hf_{SECRET.replace('-', '')}{'A' * 30}"},
        {"x": f"ghp_{SECRET.replace('-', '')}{'A' * 30}"},
        {"x": f"sk-{SECRET}{'A' * 30}"},
        {"x": f"xoxb-{SECRET}"},
        {"x": f"eyJhbGciOiJI.eyJzdWIiOiIx.{SECRET}"},
        [f"https://u:{SECRET}@h"],
        f"https://u:{SECRET}@h",
    ],
)
def test_a_secret_in_storage_options_is_refused_and_not_shown(storage: object) -> None:
    assert secret_in(storage) is not None
    with pytest.raises(JobFileError, match=r"^storage: ") as refused:
        check_fields({**SMALLEST, "storage": storage})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "storage",
    [{"token": "anon"}, {"token": "google_default"}, {"token": None}, {"token": True}, {"a": [{"key": False}]}],
)
def test_a_way_of_signing_in_is_no_secret(storage: dict[str, Any]) -> None:
    """gcsfs reads a public bucket with `token: anon`."""
    assert check_fields({**SMALLEST, "storage": storage}).storage == storage


def test_a_secret_next_to_a_way_of_signing_in_is_refused() -> None:
    assert secret_in({"token": "anon", "password": SECRET}) is not None


@pytest.mark.parametrize(
    "text",
    [
        "curl -H 'X-Token: $TOKEN' host",
        'curl -H "Authorization: Bearer $TOKEN" host',
        "curl -u me:$PASSWORD host",
        'mail --password="$PASSWORD"',
        "mail --password $PASSWORD --to me",
        "mail --password-file /run/secrets/mail",
        "docker run -u 1000:1000 mailer",
        "jq -r .text | mail -s renders you@example.com",
        "mkdir -p out; tee --append out/log",
        "jq '{token: env.TOKEN}'",
        "notify --token `cat /run/secrets/token`",
        "docker login -u me -p $PASSWORD",
        "git config set user.name me",
        "aws:kms",
        "http://h:9000",
    ],
)
def test_variables_and_plain_text_are_no_secrets(text: str) -> None:
    assert secret_in(text) is None


@pytest.mark.parametrize(
    "command",
    [
        f"curl -H 'Authorization: Bearer {SECRET}' host",
        f"curl -u me:{SECRET} host",
        f"docker login -u me -p {SECRET} host",
        f"aws configure set aws_secret_access_key {SECRET}",
        f"$env:TOKEN = '{SECRET}'; notify",
        f"telegram --bot 123456789:AA{SECRET}{'A' * 30}",
        f"mail --password {SECRET}",
        f"sshpass -p {SECRET} ssh host",
        f"wget --header='X-Api-Key: {SECRET}' host",
        f"curl hooks.slack.com/services/T0/{SECRET}",
        f"""echo '{{"token": "{SECRET}"}}'""",
    ],
)
def test_a_secret_in_a_command_is_refused_and_not_shown(command: str) -> None:
    with pytest.raises(JobFileError, match=r"^on_done: ") as refused:
        check_fields({**SMALLEST, "on_done": command})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompts": [f"https://u:{SECRET}@h"]},
        {"workers": f"https://u:{SECRET}@h"},
        {"shard_rows": {"password": SECRET}},
        {"sampling": {"cfg_weight": f"https://h?token={SECRET}"}},
        {"api_key": SECRET},
        {"model": {"checkpoint": "toy", "token": SECRET}},
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(fields: dict[str, object]) -> None:
    with pytest.raises(JobFileError) as refused:
        check_fields({**SMALLEST, **fields})
    assert SECRET not in str(refused.value)

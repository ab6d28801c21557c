import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from adapters.outgoing.signatures import (
    SecretKey,
    read_secret_key,
    secret_key_of,
    signed_headers,
)
from adapters.settings import Settings, SettingsError

BODY = json.dumps({"paid": 17, "name": "Zoë"}, ensure_ascii=False).encode()
KEY = SecretKey(b"k" * 44)


def test_a_receiver_verifies_a_request_with_the_package_of_the_convention() -> None:
    secret = KEY.secret("callback/orders", 1)
    headers = signed_headers([secret], "job_7_1", datetime.now(UTC), BODY)

    assert headers["webhook-id"] == "job_7_1"
    assert Webhook(secret).verify(BODY, headers) == json.loads(BODY)
    for changed in (BODY + b" ", b"{}"):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(changed, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY, headers | {"webhook-id": "job_7_2"})


def test_during_a_rotation_each_of_the_secrets_verifies() -> None:
    old, new = KEY.secret("callback/orders", 1), KEY.secret("callback/orders", 2)
    headers = signed_headers([new, old], "job_7_1", datetime.now(UTC), BODY)

    for secret in (old, new):
        Webhook(secret).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(KEY.secret("callback/orders", 3)).verify(BODY, headers)


def test_an_old_request_sent_again_by_somebody_else_is_refused() -> None:
    secret = KEY.secret("callback/orders", 1)
    at = datetime.now(UTC) - timedelta(minutes=6)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY, signed_headers([secret], "job_7_1", at, BODY))


def test_a_signature_is_the_one_that_the_convention_publishes() -> None:
    headers = signed_headers(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime(2021, 2, 25, 15, 2, 10, 900_000, tzinfo=UTC),
        b'{"test": 2432232314}',
    )
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_secrets_differ_by_name_version_and_key_and_stay_the_same() -> None:
    secrets = {
        key.secret(name, version)
        for key in (KEY, SecretKey(b"j" * 44))
        for name in ("push/a", "push/b", "callback/a")
        for version in (1, 2, 11)
    }
    assert len(secrets) == 18
    assert KEY.secret("push/a", 1) == SecretKey(b"k" * 44).secret("push/a", 1)
    assert len(base64.b64decode(KEY.secret("push/a", 1).removeprefix("whsec_"))) == 32


def test_a_key_is_read_from_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("k" * 44 + "\n")
    file.chmod(0o640)
    read = secret_key_of(Settings(callback_key_file=str(file)))
    assert read is not None
    assert read.secret("push/a", 1) == KEY.secret("push/a", 1)
    assert "k" * 44 not in repr(read)
    assert secret_key_of(Settings()) is None

    file.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_secret_key(str(file))


@pytest.mark.parametrize("content", ["", "k" * 31, "k" * 5_000])
def test_a_file_without_enough_chance_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "key"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(SettingsError, match="32 to 4096 bytes"):
        read_secret_key(str(file))


def test_a_file_that_is_not_there_says_how_to_make_a_key(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="dev/urandom"):
        read_secret_key(str(tmp_path / "key"))

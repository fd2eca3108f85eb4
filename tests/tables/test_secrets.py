"""Secrets in a config are in none of the files and lines that a run leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from rrad_ray import cli, tables
from rrad_ray.config import JudgeConfig
from rrad_ray.errors import RradError
from rrad_ray.rows import JudgeOutput
from rrad_ray.tables import Output
from rrad_ray.tables.secrets import redacted

SECRETS = ("hf_abcdef", "sk-123", "p4ss@word")


def config(output: Path, token: str = SECRETS[0]) -> JudgeConfig:
    return JudgeConfig(
        input="in",
        output=str(output),
        engine_env={"HF_TOKEN": token, "HTTPS_PROXY": f"http://me:{SECRETS[2]}@proxy:3128"},
        engine_kwargs={"hf_token": SECRETS[1], "max_model_len": 512},
    )


def test_what_a_run_writes_prints_and_sends_to_trackers_holds_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = config(tmp_path / "out")
    out = Output("judge", cfg, JudgeOutput, {})
    out.write_progress({})
    out.write_part("part-00000.parquet", [])
    out.commit()
    print(tables.plain(cfg), cli.config_yaml(cfg))  # what trackers get, and `--show`
    texts = [path.read_text(errors="ignore") for path in (tmp_path / "out").rglob("*") if path.is_file()]
    texts.append(capsys.readouterr().out)
    assert len(texts) >= 4
    for secret in SECRETS:
        assert not any(secret in text for text in texts)
    assert any("'HTTPS_PROXY': 'http://me:***@proxy:3128'" in text for text in texts)
    assert Output("judge", config(tmp_path / "out", "another"), JudgeOutput, {}).finished


def test_a_manifest_of_an_earlier_version_does_not_tell_its_secret_in_an_error(tmp_path: Path) -> None:
    cfg = config(tmp_path / "out")
    out = Output("judge", cfg, JudgeOutput, {})
    out.write_part("part-00000.parquet", [])
    manifest = tables.join(out.commit(), tables.MANIFEST)
    tables.write_text(
        manifest, tables.read_text(manifest).replace('"HF_TOKEN": "***"', f'"HF_TOKEN": "{SECRETS[0]}"')
    )
    assert SECRETS[0] in tables.read_text(manifest)
    assert Output("judge", cfg, JudgeOutput, {}).finished
    changed = JudgeConfig(input=cfg.input, output=cfg.output, engine_env={"OTHER": "1"})
    with pytest.raises(RradError, match=r"engine_env=.*\*\*\*") as caught:
        Output("judge", changed, JudgeOutput, {})
    assert not any(secret in str(caught.value) for secret in SECRETS)


def test_what_is_no_secret_stays_as_it_is() -> None:
    content = {
        "doc_tokens": 64,
        "token_budget": 10,
        "key_env": "OPENAI_API_KEY",
        "api_keys": "/run/keys",
        "monkey": "x",
        "TOKEN": "",
        "key": None,
        "list": [
            "s3://bucket/a@b:c",
            "https://host:8000/v1",
            1,
            None,
            "q: a@b",
            "https://host/v1?page=2&sort_keys=a",
        ],
        "MONKEY": "the Bearer of this letter",
        "turkey": "s3://bucket/key=7/token=8",
    }
    assert redacted(content) == content
    assert redacted({"a": [{"X-Api-Key": "x", "Authorization": "Bearer y"}]}) == {
        "a": [{"X-Api-Key": "***", "Authorization": "***"}]
    }


def test_secrets_in_camel_case_in_one_word_in_a_urls_query_and_in_a_header_are_hidden_too() -> None:
    names = ("apiKey", "apikey", "accessToken", "hfToken", "AUTHTOKEN", "clientSecret", "privatekey", "db_passphrase")
    assert redacted(dict.fromkeys(names, "x")) == dict.fromkeys(names, "***")
    signed = "https://store/blob?sv=2&sig=a%2Bb&page=1#top and https://host/v1?api_key=abc&x=1"
    assert redacted([signed, "Authorization: Bearer sk-abcdef123"]) == [
        "https://store/blob?sv=2&sig=***&page=1#top and https://host/v1?api_key=***&x=1",
        "Authorization: Bearer ***",
    ]

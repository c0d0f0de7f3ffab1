from __future__ import annotations

from pathlib import Path

import pytest

from hermes._directory import ServerDirectory
from hermes.aeriel.serve import Ports, check_model_repository
from hermes.aeriel.serve._command import ServerSettings, check_server_args
from hermes.errors import ParameterError

PORTS = Ports(grpc=1, http=2, metrics=3)


def settings(**facts: object) -> ServerSettings:
    directory = ServerDirectory(Path("/state/hermes-1"))
    return ServerSettings(**{"directory": directory, "model_repository": "/models", **facts})  # type: ignore[arg-type]


def test_command_names_everything_that_identifies_the_server() -> None:
    assert settings().arguments(PORTS) == [
        "--id=hermes-1",
        "--model-repository=/models",
        "--backend-config=python,shm-region-prefix-name=hermes-1-",
        "--grpc-address=127.0.0.1",
        "--grpc-port=1",
        "--http-address=127.0.0.1",
        "--http-port=2",
        "--metrics-address=127.0.0.1",
        "--metrics-port=3",
        "--exit-timeout-secs=30",
    ]


def test_sockets_are_in_the_server_s_directory() -> None:
    arguments = settings(listen="unix").arguments(PORTS)
    assert "--grpc-address=unix:/state/hermes-1/g" in arguments
    assert "--http-address=unix:/state/hermes-1/h" in arguments
    assert "--metrics-address=unix:/state/hermes-1/m" in arguments
    endpoint = settings(listen="unix").endpoint(PORTS)
    assert endpoint.grpc == "unix:/state/hermes-1/g:1"  # so gRPC names its socket
    assert endpoint.http == "unix:/state/hermes-1/h"


def test_repository_may_be_seen_elsewhere_by_the_server() -> None:
    assert "--model-repository=/bound" in settings().arguments(PORTS, "/bound")


def test_flags_of_the_user_come_last_and_as_they_are() -> None:
    flags = ("--log-verbose=1", "--model-control-mode", "explicit", "--load-model=a b")
    assert settings(server_args=flags).arguments(PORTS)[-4:] == list(flags)


@pytest.mark.parametrize("flag", [("--exit-timeout-secs=5",), ("--exit-timeout-secs", "5")])
def test_exit_timeout_of_the_user_wins(flag: tuple[str, ...]) -> None:
    arguments = settings(server_args=flag).arguments(PORTS)
    assert [a for a in arguments if a.startswith("--exit-timeout-secs")] == [flag[0]]


@pytest.mark.parametrize(("stop_timeout_s", "seconds"), [(0.2, 1), (1.9, 1), (120.0, 120)])
def test_server_gets_as_long_to_stop_as_hermes_waits(stop_timeout_s: float, seconds: int) -> None:
    arguments = settings(stop_timeout_s=stop_timeout_s).arguments(PORTS)
    assert f"--exit-timeout-secs={seconds}" in arguments


@pytest.mark.parametrize("value", ["false", "False", "0"])
def test_service_that_is_off_has_no_address(value: str) -> None:
    these = settings(server_args=(f"--allow-http={value}", "--allow-metrics", value))

    assert these.services == ("grpc",)
    assert not [a for a in these.arguments(PORTS) if a.startswith(("--http-", "--metrics-"))]
    endpoint = these.endpoint(PORTS)
    assert (endpoint.grpc, endpoint.http, endpoint.metrics) == ("127.0.0.1:1", None, None)


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1", "127.0.0.1:1"),
        ("0.0.0.0", "127.0.0.1:1"),  # noqa: S104 (what a client on this host uses then)
        ("10.1.2.3", "10.1.2.3:1"),
        ("::", "[::1]:1"),
        ("::1", "[::1]:1"),
    ],
)
def test_endpoint_is_where_a_client_on_this_host_finds_the_server(
    listen: str, address: str
) -> None:
    endpoint = settings(listen=listen).endpoint(PORTS)
    assert endpoint.grpc == address
    assert endpoint.server_id == "hermes-1"


def test_each_service_is_told_an_ipv6_address_in_its_own_way() -> None:
    arguments = settings(listen="::1").arguments(PORTS)
    assert {"--grpc-address=[::1]", "--http-address=ipv6:::1"} <= set(arguments)


@pytest.mark.parametrize(
    ("flag", "parameter"),
    [
        ("--id=x", "hermes, which identifies servers by it"),
        ("--model-repository=/x", "model_repository"),
        ("--model-store=/x", "model_repository"),
        ("--grpc-port=1", "ports"),
        ("--http-port=1", "ports"),
        ("--metrics-port=1", "ports"),
        ("--grpc-address=0.0.0.0", "listen"),
        ("--http-address=0.0.0.0", "listen"),
        ("--metrics-address=0.0.0.0", "listen"),
        ("--log-file=x", "log_file"),
        ("--model-repo=/x", "model_repository"),
        ("--backend-config=python,shm-region-prefix-name=x", "shm-region-prefix-name"),
        ("--allow-grpc=false", "GRPC"),
    ],
)
@pytest.mark.parametrize("form", ["one word", "two words"])
def test_flag_that_belongs_to_a_parameter_is_refused(flag: str, parameter: str, form: str) -> None:
    words = [flag] if form == "one word" else flag.split("=", 1)
    with pytest.raises(ParameterError, match=r"^server_args: ") as caught:
        check_server_args(["--log-verbose=1", *words])
    assert parameter in str(caught.value)


def test_other_flags_pass() -> None:
    flags = ["--allow-http=false", "--backend-config=python,x=1", "--http-thread-count=2", "value"]
    assert check_server_args(flags) == tuple(flags)


def test_flags_as_one_string_are_refused() -> None:
    with pytest.raises(ParameterError, match="a list of flags"):
        check_server_args("--log-verbose=1")


@pytest.mark.parametrize("url", ["s3://bucket/models", "gs://b/m", "as://a/c/m"])
def test_remote_repository_is_left_to_triton(url: str) -> None:
    assert check_model_repository(url) == url


@pytest.mark.parametrize("form", [str, Path])
def test_local_repository_becomes_absolute(
    form: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mod els").mkdir()
    monkeypatch.chdir(tmp_path)
    assert check_model_repository(form("mod els")) == str(tmp_path / "mod els")


@pytest.mark.parametrize("kind", ["does not exist", "is not a directory"])
def test_repository_that_is_none_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "models"
    if kind == "is not a directory":
        path.touch()
    with pytest.raises(ParameterError, match=f"model_repository: {path} {kind}"):
        check_model_repository(path)


@pytest.mark.parametrize("name", ["a b", "a;b", "a$(b)", "a'b", "ä"])
def test_model_whose_name_would_go_through_a_shell_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ParameterError) as caught:
        check_model_repository(tmp_path)
    assert repr(name) in str(caught.value)

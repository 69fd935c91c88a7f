"""nginx and Apache in front of uvicorn on a Unix socket, with the samples of docs/deploying.md."""

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from urllib.parse import quote, urljoin

import httpx
import pytest

from tests.support.certificates import Authority
from tests.support.instance import Instance, stop, wait_until
from tests.support.nginx import (
    DEPLOY,
    GROUP,
    NGINX,
    SYSTEM_PATH,
    USER,
    complete_configuration,
    listens,
    replace_all,
    running_nginx,
    temporary_folder,
)
from tests.support.pulp import unique
from tests.support.server import Server, free_port, running

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs" / "deploying.md"
APACHE = shutil.which("apache2", path=SYSTEM_PATH) or shutil.which("httpd", path=SYSTEM_PATH)
APACHE_MODULES = next(
    (
        folder
        for folder in map(Path, ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules"))
        if (folder / "mod_proxy_http.so").exists() and (folder / "mod_ssl.so").exists()
    ),
    None,
)

HOST = "pulp.example.org"
CONTENT = "/pulp/content/"
ODD_NAME = "sp ace/é%41#?&;.bin"
FILES = {"a.txt": b"0123456789", ODD_NAME: b"odd name"}
ACCESS_LOG = {
    "dynaconf_merge": True,
    "loggers": {"pulpcore.content_star.access": {"level": "INFO"}},
}
UVICORN = (
    "uvicorn",
    "pulpcore.routing:application",
    "--http",
    "pulpcore.content_star.server:HttpProtocol",
    "--no-access-log",
)
LOG_ON = {"PULP_LOGGING": f"@json {json.dumps(ACCESS_LOG)}"}


@dataclass
class Proxied:
    """Our uvicorn on a Unix socket, and the web server in front of it."""

    server: Server
    authority: Authority
    certificate: Path
    key: Path

    def client(self, certificate: bool = False, address: str = "127.0.0.1") -> httpx.Client:
        """Return a client that connects from `address`, with or without its TLS certificate."""
        context = ssl.create_default_context(cadata=self.authority.pem)
        if certificate:
            context.load_cert_chain(self.certificate, self.key)
        return httpx.Client(
            base_url=self.server.url,
            headers={"Host": HOST},
            transport=httpx.HTTPTransport(verify=context, local_address=address),
        )


def samples(heading: str) -> list[str]:
    """Return the indented blocks of a section of the document."""
    text = DOCUMENT.read_text()
    section = re.split(r"^## ", text.split(f"\n## {heading}\n", 1)[1], flags=re.M)[0]
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", section, flags=re.M)
    return [dedent(block).strip() for block in blocks if block.strip()]


def nginx_configuration(folder: Path, port: int) -> str:
    (sample,) = [block for block in samples("3. Move the traffic") if "upstream" in block]
    upstream, header = samples("Over a Unix socket")[-1].splitlines()
    sample = re.sub(r"upstream pulp_new \{.*?\n\}", upstream, sample, flags=re.S)
    values = {
        "$proxy_add_x_forwarded_for": header.split()[-1].rstrip(";"),
        'X-CLIENT-CERT ""': "X-CLIENT-CERT $ssl_client_escaped_cert",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl; ssl_verify_client optional_no_ca",
        "http://127.0.0.1:24817": "http://pulp_new",
        "/run/pulp/": f"{folder}/",
        "/etc/pulp/certs/": f"{folder}/",
    }
    return complete_configuration(folder, replace_all(sample, values))


def apache_configuration(folder: Path, port: int) -> str:
    (sample,) = samples("Apache")
    values = {
        "*:443": f"127.0.0.1:{port}",
        "/run/pulp/": f"{folder}/",
        "/etc/pulp/certs/": f"{folder}/",
    }
    # Apache allows comments only on lines of their own.
    sample = re.sub(r"(\S) +#.*", r"\1", replace_all(sample, values))
    names = ["authz_core", "headers", "mpm_event", "proxy", "proxy_http", "ssl", "unixd"]
    modules = [
        f"LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so"
        for name in names
        if (Path(str(APACHE_MODULES)) / f"mod_{name}.so").exists()  # the others are built in
    ]
    lines = [
        f"ServerRoot {folder}",
        "ServerName localhost",
        f"Listen 127.0.0.1:{port} https",
        f"PidFile {folder}/pid",
        f"DefaultRuntimeDir {folder}",
        "Mutex pthread",
        f"ErrorLog {folder}/error.log",
        *modules,
        *([f"User {USER.pw_name}", f"Group {GROUP.gr_name}"] if os.geteuid() == 0 else []),
        sample,
    ]
    return "\n".join(lines)


def nginx(configuration: Path) -> list[str]:
    return [str(NGINX), "-c", str(configuration), "-e", str(configuration.with_name("error.log"))]


def apache(configuration: Path) -> list[str]:
    return [str(APACHE), "-f", str(configuration), "-D", "FOREGROUND"]


PROXIES: dict[str, tuple[Callable[[Path, int], str], Callable[[Path], list[str]]]] = {
    "nginx": (nginx_configuration, nginx),
    "apache": (apache_configuration, apache),
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("nginx", marks=pytest.mark.skipif(NGINX is None, reason="needs nginx")),
        pytest.param(
            "apache",
            marks=pytest.mark.skipif(
                APACHE is None or APACHE_MODULES is None, reason="needs Apache with mod_ssl"
            ),
        ),
    ],
)
def proxied(request, instance: Instance) -> Iterator[Proxied]:
    configure, command = PROXIES[request.param]
    authority = Authority()
    # A short path, for the socket's name, which the web server's account can read.
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)
        certificate, key = folder / "pulp.crt", folder / "pulp.key"
        for path, text in zip((certificate, key), authority.pair(), strict=True):
            path.write_text(text)
        configuration = folder / "web-server.conf"
        configuration.write_text(configure(folder, port))
        process = subprocess.Popen(command(configuration), start_new_session=True)
        uvicorn = [*UVICORN, "--uds", f"{folder}/pulp.sock", "--forwarded-allow-ips", "*"]
        errors = folder / "error.log"
        try:
            wait_until(lambda: listens(process, errors, port))
            # `running` accepts the web server's 502; wait for our response.
            with running(instance, uvicorn, f"https://127.0.0.1:{port}", **LOG_ON) as server:
                proxied = Proxied(server, authority, certificate, key)
                with proxied.client() as client:
                    wait_until(
                        lambda: client.get(f"{CONTENT}readyz").status_code == 200,
                        explain=lambda: server.said() + errors.read_text(),
                    )
                yield proxied
        finally:
            stop(process)


@pytest.fixture
def client(proxied: Proxied) -> Iterator[httpx.Client]:
    with proxied.client() as client:
        yield client


@pytest.fixture(scope="module")
def base(module_orm) -> str:
    return module_orm.distribution(publication=module_orm.publication(FILES))


def logged_address(server: Server, mark: str) -> str:
    """Return the client's address in the access log line that contains `mark`."""

    def lines() -> list[str]:
        return [line for line in server.said().splitlines() if mark in line]

    wait_until(lines, explain=server.said)
    (line,) = lines()
    match = re.search(r"\]: (\S+) - - \[", line)
    assert match, line
    return match[1]


def test_redirect_to_directory_keeps_scheme_and_host(client, base):
    response = client.get(f"{CONTENT}{base}?a=1")
    assert response.status_code == 301
    location = urljoin(f"https://{HOST}{CONTENT}{base}?a=1", response.headers["Location"])
    assert location == f"https://{HOST}{CONTENT}{base}/?a=1"


def test_absolute_links_of_the_api_have_scheme_and_host_of_the_client(client, instance):
    auth = (instance.username, instance.password)
    response = client.get("/pulp/api/v3/access_policies/?limit=1", auth=auth)
    assert response.json()["next"].startswith(f"https://{HOST}/pulp/api/v3/access_policies/?")


@pytest.mark.parametrize("name", FILES)
def test_signed_url_is_valid_and_a_changed_one_is_not(client, module_orm, name):
    from pulpcore.app.models import ContentRedirectContentGuard

    guard = module_orm.guard(ContentRedirectContentGuard)
    publication = module_orm.publication(FILES)
    base = module_orm.distribution(publication=publication, content_guard=guard)
    url = guard.preauthenticate_url(f"https://{HOST}{CONTENT}{base}/{quote(name)}")
    target = url.removeprefix(f"https://{HOST}")
    assert client.get(target).content == FILES[name]
    assert client.get(target[:-1] + ("0" if target[-1] != "0" else "1")).status_code == 403


@pytest.mark.parametrize("name", FILES)
def test_range_and_conditions_pass_through_the_proxy(client, base, name):
    url, data = quote(f"{CONTENT}{base}/{name}"), FILES[name]
    whole = client.get(url)
    assert (whole.status_code, whole.content) == (200, data)
    condition = {"If-Range": whole.headers["ETag"]}
    part = client.get(url, headers={"Range": "bytes=2-4", **condition})
    assert (part.status_code, part.content) == (206, data[2:5])
    assert part.headers["Content-Range"] == f"bytes 2-4/{len(data)}"
    beyond = client.get(url, headers={"Range": "bytes=100-"})
    assert beyond.status_code == 416
    unchanged = client.get(url, headers={"If-None-Match": whole.headers["ETag"]})
    assert unchanged.status_code == 304


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
def test_access_log_has_the_client_address_and_not_a_forged_one(proxied, base, address):
    mark = unique("mark")
    with proxied.client(address=address) as client:
        forged = {"X-Forwarded-For": "203.0.113.7, 203.0.113.8"}
        assert client.get(f"{CONTENT}{base}/a.txt?{mark}", headers=forged).status_code == 200
    assert logged_address(proxied.server, mark) == address


def test_certificate_guard_gets_the_certificate_of_the_connection(proxied, client, instance):
    pulp = instance.pulp()
    fields = {"name": unique("guard"), "ca_certificate": proxied.authority.pem}
    guard = pulp.create("contentguards/certguard/x509/", **fields)["pulp_href"]
    publication = pulp.publish(pulp.repository({"secret.txt": b"secret"}))
    base = pulp.distribute(publication=publication, content_guard=guard)
    url = f"{CONTENT}{base}/secret.txt"
    forged = {"X-CLIENT-CERT": quote(proxied.certificate.read_text())}
    try:
        with proxied.client(certificate=True) as holder:
            assert holder.get(url).content == b"secret"
        assert client.get(url).status_code == 403
        assert client.get(url, headers=forged).status_code == 403
    finally:
        pulp.cleanup()


@pytest.mark.parametrize(
    ("options", "address"), [(("--forwarded-allow-ips", "*"), "203.0.113.7"), ((), "-")]
)
def test_inherited_unix_socket_trusts_forwarded_headers_with_option(
    instance, base, options, address
):
    """As with systemd's socket unit with a path in `ListenStream`."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(socket.socket(socket.AF_UNIX)) as listener,
    ):
        path = f"{folder}/pulp.sock"
        listener.bind(path)
        listener.listen()
        process = instance.spawn(
            [*UVICORN, "--fd", str(listener.fileno()), *options],
            output=Path(folder, "log"),
            pass_fds=[listener.fileno()],
            **LOG_ON,
        )
        server = Server("http://pulp", process, Path(folder, "log"))
        try:
            transport = httpx.HTTPTransport(uds=path)
            with httpx.Client(transport=transport) as client:
                mark, headers = unique("mark"), {"X-Forwarded-For": "203.0.113.7"}
                url = f"{server.content_url}{base}/a.txt?{mark}"
                assert client.get(url, headers=headers).content == FILES["a.txt"]
            assert logged_address(server, mark) == address
        finally:
            stop(process)


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_api_and_content_in_processes_of_their_own_at_one_port(instance, orm):
    """With deploy/nginx/separate.conf: content is served while the API's process is suspended."""
    base = orm.distribution(publication=orm.publication(FILES))
    content, api = samples("Scaling")[0].replace("\\\n", " ").splitlines()
    setting, *api_command = api.split()
    variable, _, value = setting.partition("=")
    servers: dict[str, Server] = {}
    with ExitStack() as stack:
        for command, environ in ((content.split(), {}), (api_command, {variable: value})):
            address = f"127.0.0.1:{command[-1]}"
            command[-1] = str(free_port())
            url = f"http://127.0.0.1:{command[-1]}"
            servers[address] = stack.enter_context(running(instance, command, url, **environ))
        port = free_port()
        origins = {old: each.url.removeprefix("http://") for old, each in servers.items()}
        configuration = replace_all(
            (DEPLOY / "nginx" / "separate.conf").read_text(),
            {**origins, "listen 8080": f"listen 127.0.0.1:{port}"},
        )
        folder = stack.enter_context(temporary_folder())
        url = stack.enter_context(running_nginx(folder, port, configuration)).url
        file, status = f"{url}{CONTENT}{base}/a.txt", f"{url}/pulp/api/v3/status/"
        assert httpx.get(status).json()["database_connection"]["connected"]
        assert httpx.get(file).content == FILES["a.txt"]
        pid = servers["127.0.0.1:24817"].process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            assert httpx.get(file).content == FILES["a.txt"]
            assert httpx.get(f"{url}{CONTENT}{base}/").status_code == 200
        finally:
            os.kill(pid, signal.SIGCONT)
        assert httpx.get(status).status_code == 200
